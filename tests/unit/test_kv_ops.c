/* KV caches: what each call does to the rows of every kind, as scripts; rows in other
 * dtypes, turned keys, saves, pairs; and how much is moved. */
#include "../test.h"
#include "cache.h"
#include "play.h"

#define PLAY(scripts) play(scripts, COUNT(scripts))

/* --- Where rows go. --- */
static void positions_of_rows(void) {
    static const script scripts[] = {
        {ALL, BOTH, 0, 0, 0,
         "none; append; none; append 1 2 3; is 1 2 3; base 0; next 3; "
         "append 4 5; append; is 1..5; base 0; next 5"},
        {ALL, BOTH, 0, 0, 0, "append 1 2 | 3 4; append 5 | 6; is 1 2 5 | 3 4 6"},
        {ALL, BOTH, 0, 0, 0,
         "put @0 : 7 | 8; is 7 | 8; put @3 : 1 | 2; "
         "is 7 . . 1 | 8 . . 2; put @1 : 5 | 6; "
         "is 7 5 . 1 | 8 6 . 2; next 4 4"},
        {ALL, BOTH, 0, 0, 0, "put @2 : 9; is . . 9; next 3"},
        {ALL, BOTH, 0, 0, 0, "put @70 : 9; is .70 9; put @66 : 8; is .66 8 .3 9"},
        {ALL, BOTH, 0, 0, 0,
         "append 1..4 | 5..8; put 1 3 : 11 12 | 13 14; "
         "is 1 11 3 12 | 5 13 7 14; put 3 0 : 1 2 | 3 4; "
         "is 2 11 3 1 | 4 13 7 3"},
        {ALL, BOTH, 0, 0, 0, "put 4 0 : 1 2 | 3 4; is 2 .3 1 | 4 .3 3"},
        {ALL, BOTH, 0, 0, 0,
         "append 1 2; put 5 5 5 : 7 8 9; is 1 2 .3 9; "
         "put 0 1 0 : 3 4 5; is 5 4 .3 9"},
        {ALL, EVEN, 0, 0, 0,
         "append 1 2 | 3 4; put 0 1 | 3 3 : 5 6 | 7 8; "
         "is 5 6 . . | 3 4 . 8; next 4 4"},
        {ALL, RAGGED, 0, 0, 0,
         "append 1 2 | 3 4; put 0 1 | 3 3 : 5 6 | 7 8; "
         "is 5 6 | 3 4 . 8; next 2 4; base 0 0"},
        {ALL, RAGGED, 0, 0, 0, "append 1 2 3 | 4; put @2 : 5 | 6; is 1 2 5 | 4 . 6"},
        {PLAIN, BOTH, 0, 0, 0,
         "append 1..5; last 2; put @1 : 9; is 4 9; put @3 : 8; "
         "is 4 9 . 8; base 3; next 7"},
        {RINGS, BOTH, 0, 0, 0,
         "append 1..5; last 2; put @4 : 9; is 4 9; put @6 : 8; "
         "is 4 9 . 8; ERR_RANGE put @2 : 1; base 3; next 7"},
    };
    PLAY(scripts);
}

static void positions_that_are_refused(void) {
    static const script scripts[] = {
        {ALL, BOTH, 0, 0, 0,
         "ERR_RANGE put @-1 : 5; none; ERR_SHAPE put @0 : 5 6; none; "
         "ERR_SHAPE put 0 1 2 : 5 6; ERR_SHAPE put 0 : 5 6; none"},
        {ALL, BOTH, 0, 0, 0,
         "append 1 2 | 3 4; ERR_RANGE put @-1 : 5 | 6; "
         "ERR_RANGE put 0 -1 : 5 6 | 7 8; "
         "ERR_RANGE put 0 1 | 0 -5 : 5 6 | 7 8; "
         "ERR_SHAPE put @1 : 5 6 | 7 8; "
         "ERR_SHAPE put 0 1 2 : 5 6 | 7 8; "
         "ERR_SHAPE put 0 1 | 0 1 | 0 1 : 5 6 | 7 8; "
         "ERR_SHAPE append 1 | 2 | 3; is 1 2 | 3 4"},
        {PLAIN, BOTH, 0, 0, 0, "append 1..5; last 2; ERR_RANGE put @-1 : 5; is 4 5"},
    };
    PLAY(scripts);
}

static void ragged_counts(void) {
    static const script scripts[] = {
        {ALL, RAGGED, 0, 0, 0,
         "append 1 2 3 | 4; is 1 2 3 | 4; next 3 1; "
         "append 5 | 6 7 8; is 1 2 3 5 | 4 6 7 8; append | 9; "
         "is 1 2 3 5 | 4 6 7 8 9; append 10 | 11; "
         "is 1 2 3 5 10 | 4 6 7 8 9 11; next 5 6"},
        {ALL, RAGGED, 0, 0, 0, "append 1 2 | ; is 1 2 | ; append | 3; is 1 2 | 3"},
        {ALL, EVEN, 0, 0, 0,
         "ERR_ARG append 1 2 | 3; none; append 1 2 | 3 4; "
         "ERR_ARG append 1 2 | 3; is 1 2 | 3 4"},
    };
    PLAY(scripts);
}

/* --- Rows that go. --- */
static void crop_keeps_the_first(void) {
    static const script scripts[] = {
        {ALL, BOTH, 0, 0, 0,
         "append 1..5; crop 9; is 1..5; crop 5; is 1..5; crop 3; "
         "is 1 2 3; append 6; is 1 2 3 6; crop -1; is 1 2 3; "
         "crop -2; is 1; crop -7; is; next 0; append 8; is 8; "
         "crop 0; is; next 0; base 0; crop 0; is"},
        {ALL, BOTH, 0, 0, 0,
         "append 1..5 | 11..15; crop 2; put @4 : 9 | 8; "
         "is 1 2 . . 9 | 11 12 . . 8"},
        {ALL, BOTH, 0, 0, 0,
         "append 1..70; crop 3; put @69 : 9; is 1 2 3 .66 9; crop 60; "
         "is 1 2 3 .57; append 5; is 1 2 3 .57 5"},
        {ALL, RAGGED, 0, 0, 0,
         "append 1..5 | 6..9; crop each 2 9; is 1 2 | 6..9; "
         "crop each -1 -3; is 1 | 6; crop each 1 0; is 1 | ; "
         "append 2 | 3; is 1 2 | 3"},
        {ALL, RAGGED, 0, 0, 0,
         "append 1..5 | 6 7; crop 3; is 1 2 3 | 6 7; crop -2; "
         "is 1 | ; crop 0; is | "},
        {ALL, EVEN, 0, 0, 0, "append 1 2 | 3 4; ERR_ARG crop each 1 1; is 1 2 | 3 4"},
        {ALL, RAGGED, 0, 0, 0,
         "append 1 2 | 3 4; ERR_SHAPE crop each 1; "
         "ERR_SHAPE crop each 1 1 1; is 1 2 | 3 4"},
    };
    PLAY(scripts);
}

static void keep_last_moves_the_base(void) {
    static const script scripts[] = {
        {ALL, BOTH, 0, 0, 0,
         "append 1..5; last 7; is 1..5; base 0; last 5; is 1..5; "
         "last 3; is 3 4 5; base 2; next 5; append 6; is 3..6; "
         "last 0; is; base 6; next 6; append 7; is 7; base 6"},
        {ALL, BOTH, 0, 0, 0,
         "append 1..6; last 4; crop 2; is 3 4; base 2; next 4; "
         "crop -1; is 3; append 9; is 3 9; next 4"},
        {PLAIN, BOTH, 0, 0, 0,
         "append 1..5; last 2; crop 0; is; base 3; next 3; "
         "put @1 : 9; is . 9; base 3; next 5"},
        {ALL, BOTH, 0, 0, 0,
         "append 1..75; last 3; is 73 74 75; base 72; append 76; "
         "is 73..76; next 76"},
        {ALL, BOTH, 0, 0, 0,
         "append 1..5; last 2; reset; is; base 0; next 0; append 7; "
         "is 7; base 0; put @3 : 8; is 7 . . 8"},
        {ALL, RAGGED, 0, 0, 0,
         "append 1..5 | 6 7; last 3; is 3 4 5 | 6 7; base 2 0; "
         "last each 9 1; is 3 4 5 | 7; base 2 1; next 5 2; "
         "last each 0 1; is | 7; base 5 1"},
        {ALL, EVEN, 0, 0, 0, "append 1 2 | 3 4; ERR_ARG last each 1 1; is 1 2 | 3 4"},
        {ALL, RAGGED, 0, 0, 0,
         "append 1 2 3 | 4 5 6; ERR_RANGE last each 1 -1; "
         "is 1 2 3 | 4 5 6"},
        {ALL, RAGGED, 0, 0, 0, "append 1 2 | 3 4; ERR_SHAPE last each 1; is 1 2 | 3 4"},
        {ALL, BOTH, 0, 0, 0, "append 1 2 | 3 4; ERR last -1; is 1 2 | 3 4"},
    };
    PLAY(scripts);
}

/* --- Samples. --- */
static void samples_change_places(void) {
    static const script scripts[] = {
        {ALL, BOTH, 0, 0, 0,
         "append 1 2 | 3 4 | 5 6; select 2 0 1; is 5 6 | 1 2 | 3 4; "
         "select 1 1; is 1 2 | 1 2; append 7 | 8; is 1 2 7 | 1 2 8; "
         "select 1 0 1 0; is 1 2 8 | 1 2 7 | 1 2 8 | 1 2 7; "
         "select 2; is 1 2 8; append 9; is 1 2 8 9"},
        {ALL, BOTH, 0, 0, 0,
         "append 1 2 | 3 4; select 0 1; is 1 2 | 3 4; "
         "ERR_RANGE select 0 2; ERR_RANGE select -1 0; "
         "ERR_RANGE select 0 1 0 7; ERR select; is 1 2 | 3 4"},
        {ALL, BOTH, 0, 0, 0,
         "append 1..70 | 71..140; select 1 1 0; "
         "is 71..140 | 71..140 | 1..70; append 5 | 6 | 7; "
         "is 71..140 5 | 71..140 6 | 1..70 7; crop 68; select 2 2; "
         "put @70 : 8 | 9; is 1..68 . . 8 | 1..68 . . 9"},
        {ALL, BOTH, 0, 0, 0,
         "append 1..20 | 21..40; select 0; crop 2; select 0 0 0; "
         "put @10 : 7 | 8 | 9; is 1 2 .8 7 | 1 2 .8 8 | 1 2 .8 9"},
        {ALL, BOTH, 0, 0, 0, "append 1 2; select 0 0; put @0 : 7 | 8; is 7 2 | 8 2"},
        {ALL, RAGGED, 0, 0, 0,
         "append 1 2 3 | 4; select 1 0; is 4 | 1 2 3; next 1 3; "
         "last 1; base 0 2; select 1 0 1; base 2 0 2; "
         "is 3 | 4 | 3; next 3 1 3; select 1; put @3 : 5; "
         "is 4 . . 5"},
        {ALL, BOTH, 0, 0, 0,
         "append 1 2 | 3 4; repeat 1; is 1 2 | 3 4; repeat 2; "
         "is 1 2 | 1 2 | 3 4 | 3 4; append 5 | 6 | 7 | 8; "
         "is 1 2 5 | 1 2 6 | 3 4 7 | 3 4 8; ERR repeat 0; "
         "ERR repeat -1; is 1 2 5 | 1 2 6 | 3 4 7 | 3 4 8"},
        {ALL, RAGGED, 0, 0, 0,
         "append 1 2 3 | 4; last 1; repeat 2; base 2 2 0 0; "
         "is 3 | 3 | 4 | 4"},
        {ALL, BOTH, 0, 0, 0,
         "append 1 2 | 3 4; fork 0 1; is 1 2 | 1 2; fork 1 1; "
         "append 5 | 6; is 1 2 5 | 1 2 6; ERR_RANGE fork 0 2; "
         "ERR_RANGE fork -1 0; ERR_RANGE fork 2 0; "
         "ERR_RANGE fork 0 -1; is 1 2 5 | 1 2 6"},
        {ALL, RAGGED, 0, 0, 0,
         "append 1 2 3 | 4; last 2; fork 1 0; is 4 | 4; base 0 0; "
         "append 5 | 6; is 4 5 | 4 6; put @3 : 7 | 8; "
         "is 4 5 . 7 | 4 6 . 8"},
        {ALL, RAGGED, 0, 0, 0,
         "append 1..70 | 4; fork 0 1; is 1..70 | 1..70; crop 1; "
         "is 1 | 1; append 5 | 6; is 1 5 | 1 6"},
        {ALL, RAGGED, 0, 0, 0,
         "append 1..79 | 1; last 1; select 0 0; is 79 | 79; append 5 | 6; "
         "is 79 5 | 79 6; crop 0; append 1..70 | 8; select 1 0 0; fork 0 2; "
         "is 8 | 1..70 | 8"},
    };
    PLAY(scripts);
}

/* --- Back to a mark. --- */
static void rollback_forgets(void) {
    static const script scripts[] = {
        {ALL, BOTH, 0, 0, 0,
         "append 1 2 3; ERR_ARG roll; mark; append 4 5; roll; "
         "is 1 2 3; append 6 7 8; roll 2; is 1 2 3 6 7; roll 1; "
         "is 1 2 3 6; roll 0; is 1 2 3; next 3; commit; "
         "ERR_ARG roll; is 1 2 3"},
        {ALL, BOTH, 0, 0, 0,
         "append 1 2 | 3 4; mark; append 5 6 | 7 8; roll 1; "
         "is 1 2 5 | 3 4 7; ERR_RANGE roll 2; ERR_RANGE roll -1; "
         "ERR roll 1 1 1; is 1 2 5 | 3 4 7; roll; is 1 2 | 3 4"},
        {ALL, EVEN, 0, 0, 0,
         "append 1 2 | 3 4; mark; append 5 6 | 7 8; ERR roll 1 0; "
         "is 1 2 5 6 | 3 4 7 8"},
        {ALL, RAGGED, 0, 0, 0,
         "append 1 2 | 3; mark; append 4 5 | 6 7; roll 2 0; "
         "is 1 2 4 5 | 3; roll 1 0; is 1 2 4 | 3; "
         "ERR_RANGE roll 0 1; roll; is 1 2 | 3"},
        {ALL, BOTH, 0, 0, 0, "append 1; mark; append 2; mark; append 3; roll; is 1 2"},
        {ALL, BOTH, 0, 0, 0,
         "append 1 2 3; mark; append 4; last 1; is 4; roll; is 1 2 3; "
         "last 2; roll; is 1 2 3"},
        {ALL, BOTH, 0, 0, 0, "append 1; mark; append 2; reset; ERR_ARG roll; is"},
        {ALL, BOTH, 0, 0, 0,
         "append 1 2 3; mark; append 4 5; put @3 : 9; is 1 2 3 9 5; "
         "crop 4; append 6; is 1 2 3 9 6; roll 2; is 1 2 3 9 6; "
         "crop 3; is 1 2 3; put @5 : 7; is 1 2 3 . . 7; roll 2; "
         "is 1 2 3 . ."},
        {ALL, BOTH, 0, 0, 0,
         "append 1 2 3 | 4 5 6; mark; append 7 | 8; "
         "ERR_RANGE put @2 : 9 | 9; ERR crop 2; ERR crop -2; "
         "ERR select 1 0; ERR repeat 2; ERR fork 0 1; "
         "is 1 2 3 7 | 4 5 6 8; commit; select 1 0; "
         "is 4 5 6 8 | 1 2 3 7"},
        {ALL, BOTH, 0, 0, 0,
         "append 1..60; mark; append 61..75; roll; is 1..60; "
         "put @70 : 5; is 1..60 .10 5; roll; append 6; is 1..60 6"},
        {PLAIN, BOTH, 0, 0, 0,
         "mark; append 1 2; is 1 2; roll 1; is 1; roll; none; "
         "append 3 | 4; is 3 | 4"},
    };
    PLAY(scripts);
}

/* --- Rings. --- */
static void rings_turn(void) {
    static const script scripts[] = {
        {RINGS, BOTH, 4, 0, 0,
         "append 1..3; is 1..3; base 0; append 4..6; is 3..6; "
         "base 2; next 6; append 7..40; is 37..40; append 41..100; "
         "append 101..160; append 161..220; append 221..280; "
         "append 281; is 278..281; base 277; next 281"},
        {RINGS, BOTH, 4, 0, 0,
         "append 1..300; is 297..300; next 300; append 301..600; "
         "is 597..600; base 596; append 601..650; is 647..650"},
        {RINGS, BOTH, 64, 0, 0,
         "append 1..300; is 237..300; append 301..302; "
         "is 239..302; base 238; next 302"},
        {RINGS, BOTH, 65, 3, 130,
         "append 1..300; is 1..3 236..300; append 301..400; "
         "is 1..3 336..400; append 401; is 1..3 337..401"},
        {RINGS, BOTH, 4, 2, 0,
         "append 1 2 3; is 1 2 3; append 4..9; is 1 2 6..9; "
         "base 5; next 9; append 10..300; is 1 2 297..300; "
         "base 296; last 2; is 1 2 299 300; base 298; last 0; "
         "is 1 2; base 300; next 300; append 301; is 1 2 301"},
        {RINGS, BOTH, 4, 70, 0,
         "append 1..60; is 1..60; append 61..72; is 1..72; "
         "append 73..90; is 1..70 87..90; base 86; "
         "append 91..300; is 1..70 297..300"},
        {RINGS, RAGGED, 4, 0, 0,
         "append 1..9 | 20 21; is 6..9 | 20 21; base 5 0; "
         "append 10 | 22..25; is 7..10 | 22..25; next 10 6; "
         "append 11..200 | ; is 197..200 | 22..25; base 196 2; "
         "append | 26..226; is 197..200 | 223..226"},
        {RINGS, RAGGED, 4, 2, 0,
         "append 1..9 | 20; is 1 2 6..9 | 20; append 10 | 21; "
         "is 1 2 7..10 | 20 21; append | 22..30; "
         "is 1 2 7..10 | 20 21 27..30; next 10 11"},
        {RINGS, BOTH, 4, 0, 0,
         "append 1..9 | 11..19; select 1 0 1; "
         "is 16..19 | 6..9 | 16..19; append 1..130 | 2..131 | "
         "3..132; is 127..130 | 128..131 | 129..132; repeat 1; "
         "fork 0 2; is 127..130 | 128..131 | 127..130; base 135 "
         "135 135"},
        {RINGS, BOTH, 4, 2, 0,
         "append 1..150 | 151..300; select 1 1 0; "
         "is 151 152 297..300 | 151 152 297..300 | 1 2 147..150"},
        {RINGS, BOTH, 4, 2, 0,
         "append 1..9; reset; is; next 0; append 11..13; "
         "is 11..13; append 14..300; is 11 12 297..300"},
        {RINGS, BOTH, 4, 0, 0,
         "append 1..300; reset; append 1 2 3; is 1 2 3; base 0; append 4..200; "
         "is 197..200; mark; append 201..210; roll 2; is 199..202; commit; reset; "
         "put @3 : 9; is . . . 9; put @0 : 8; is 8 . . 9; next 4"},
    };
    PLAY(scripts);
}

static void rings_at_positions(void) {
    static const script scripts[] = {
        {RINGS, BOTH, 4, 0, 0,
         "append 1..3; put @5 : 9; is 3 . . 9; base 2; put @3 : 8; "
         "is 3 8 . 9; put @100 : 7; is .3 7; base 97; next 101; "
         "put @98 : 6; is . 6 . 7; put @300 : 5; is .3 5"},
        {RINGS, BOTH, 4, 0, 0, "put 9 9 8 : 1 2 3; is . . 3 2; base 6; next 10"},
        {RINGS, BOTH, 4, 0, 0,
         "append 1..9; ERR_RANGE put @4 : 7; put @5 : 50; "
         "is 50 7 8 9; ERR_RANGE put 8 4 : 1 2; ERR_RANGE put @0 : "
         "1; is 50 7 8 9"},
        {RINGS, BOTH, 4, 2, 0,
         "append 1..9; put @1 : 50; is 1 50 6..9; "
         "ERR_RANGE put @2 : 7; ERR_RANGE put @4 : 7; put @5 : 51; "
         "is 1 50 51 7 8 9; put @9 : 10; is 1 50 7..10"},
        {RINGS, BOTH, 4, 2, 0,
         "put @1 : 5; is . 5; put @8 : 6; is . 5 .3 6; base 5; "
         "put @0 : 4; is 4 5 .3 6; next 9"},
        {RINGS, RAGGED, 4, 0, 0,
         "append 1..9 | 20 21; put 6 | 2 : 50 | 51; "
         "is 6 50 8 9 | 20 21 51; put @6 : 1 | 2; "
         "is 6 1 8 9 | . . . 2"},
    };
    PLAY(scripts);
}

static void rings_cropped_and_rolled_back(void) {
    static const script scripts[] = {
        {RINGS, BOTH, 4, 0, 0,
         "append 1..9; crop 2; is 6 7; base 5; next 7; append 10; "
         "is 6 7 10; append 11 12; is 7 10 11 12; base 6; crop -3; "
         "is 7; crop 0; is; next 6; append 8; is 8"},
        {RINGS, BOTH, 4, 2, 0,
         "append 1..9; crop 4; is 1 2 6 7; next 7; append 10; "
         "is 1 2 6 7 10; append 11 12; is 1 2 7 10 11 12; crop -3; "
         "is 1 2 7; base 6; next 7"},
        {RINGS, BOTH, 4, 2, 0,
         "append 1..4; crop 1; is 1; next 1; append 5 6; is 1 5 6; "
         "append 7..12; is 1 5 9..12"},
        {RINGS, BOTH, 4, 0, 0,
         "append 1..100; mark; append 101..130; is 127..130; roll; "
         "is 97..100; base 96; next 100; append 131..140; roll 3; "
         "is 100 131 132 133; base 99; next 103; roll 1; "
         "is 98 99 100 131; roll; is 97..100"},
        {RINGS, BOTH, 4, 2, 0,
         "append 1..100; mark; append 101..130; roll; "
         "is 1 2 97..100; append 131..140; roll 3; "
         "is 1 2 100 131 132 133; commit; append 134; "
         "is 1 2 131..134"},
        {RINGS, BOTH, 4, 3, 0,
         "append 1 2; mark; append 3..30; is 1 2 3 27..30; roll 2; "
         "is 1 2 3 4; roll; is 1 2; append 5; is 1 2 5"},
        {RINGS, BOTH, 4, 0, 0,
         "append 1..10; mark; ERR_FULL append 11..300; is 7..10; "
         "append 11..74; is 71..74; roll; is 7..10; "
         "ERR_FULL put @200 : 1; commit; append 11..300; "
         "is 297..300"},
        {RINGS, RAGGED, 4, 0, 0,
         "append 1..9 | 20 21; mark; append 10 11 | 22; "
         "roll 1 1; is 7..10 | 20 21 22; roll 0 1; "
         "is 6..9 | 20 21 22; roll 0 0; is 6..9 | 20 21"},
    };
    PLAY(scripts);
}

/* --- Rows in other dtypes and layouts. --- */
/* What a cache of that dtype makes of an F32 tensor. */
static tfb_tensor rounded(tfb_ctx *ctx, const tfb_tensor *x, tfb_dtype dtype) {
    tfb_tensor half, y;
    CHECK_OK(ctx, tfb_tensor_new(ctx, &half, dtype, x->ndim, x->shape));
    CHECK_OK(ctx, tfb_tensor_new(ctx, &y, TFB_F32, x->ndim, x->shape));
    CHECK_OK(ctx, tfb_copy(ctx, x, &half));
    CHECK_OK(ctx, tfb_copy(ctx, &half, &y));
    tfb_tensor_free(ctx, &half);
    return y;
}

static int same_bytes(const tfb_tensor *a, const tfb_tensor *b) { /* both dense */
    return a->dtype == b->dtype && tfb_numel(a) == tfb_numel(b) &&
           !memcmp(a->data, b->data, (size_t)tfb_numel(a) * tfb_dtype_size(a->dtype));
}

/* Rows of dtype `from`, kept as `kept`, got as `to`: converted once each time. */
static void get_converts_from(tfb_ctx *ctx, int kind, tfb_dtype from, tfb_dtype kept) {
    tfb_kv_opts o = opts_of(kind, 1, shape_of(2, 2, 5, 3, 37));
    rows r = rows_new(2, 2, 37, 5, 3, 0);
    tfb_tensor want[2], given[2], got;
    tfb_kv kv;
    void *mem;
    int i, to;
    o.dtype = kept;
    mem = cache_new(ctx, &kv, IS_STATIC(kind), &o);
    for (i = 0; i < 2; i++) {
        const tfb_tensor *x = i ? &r.value : &r.key;
        tfb_tensor once = rounded(ctx, x, from);
        CHECK_OK(ctx, tfb_tensor_new(ctx, &given[i], from, 4, x->shape));
        CHECK_OK(ctx, tfb_copy(ctx, x, &given[i]));
        want[i] = rounded(ctx, &once, kept);
        tfb_tensor_free(ctx, &once);
    }
    CHECK_OK(ctx, tfb_kv_append(ctx, &kv, 0, &given[0], &given[1]));
    for (i = 0; i < 2; i++)
        for (to = 0; to < 3; to++) {
            tfb_tensor asked;
            CHECK_OK(ctx, tfb_tensor_new(ctx, &got, kv_dtypes[to], 4, want[i].shape));
            CHECK_OK(ctx, tfb_tensor_new(ctx, &asked, kv_dtypes[to], 4, want[i].shape));
            CHECK_OK(ctx, tfb_copy(ctx, &want[i], &asked));
            CHECK_OK(ctx, tfb_kv_get(ctx, &kv, 0, i ? NULL : &got, i ? &got : NULL));
            CHECK(same_bytes(&got, &asked), "%s %d as %d", kind_names[kind], (int)kept,
                  to);
            tfb_tensor_free(ctx, &got);
            tfb_tensor_free(ctx, &asked);
        }
    for (i = 0; i < 2; i++) tfb_tensor_free(ctx, &want[i]);
    for (i = 0; i < 2; i++) tfb_tensor_free(ctx, &given[i]);
    tfb_kv_free(&kv);
    free(mem);
    rows_free(&r);
}

static void get_converts(void) {
    tfb_ctx ctx;
    t_heap heap;
    int kind, from, kept;
    t_ctx(&ctx, &heap);
    for (kind = 0; kind < KINDS; kind++)
        for (from = 0; from < 3; from++)
            for (kept = 0; kept < 3; kept++)
                get_converts_from(&ctx, kind, kv_dtypes[from], kv_dtypes[kept]);
    tfb_ctx_free(&ctx);
    CHECK(heap.live == 0, "%ld blocks leaked", heap.live);
}

/* Is that NaN? Which one is not defined. */
static int half_is_nan(uint16_t x, tfb_dtype dtype) {
    return (x & 0x7FFF) > (dtype == TFB_F16 ? 0x7C00 : 0x7F80);
}

/* All 16-bit values come out as they went in: infinities and subnormals too. */
static void halves_keep_their_bits(void) {
    static uint16_t in[2][65536], out[2][65536];
    tfb_ctx ctx;
    int kind, half, i;
    t_ctx(&ctx, NULL);
    for (i = 0; i < 65536; i++) in[0][i] = (uint16_t)i, in[1][i] = (uint16_t)~i;
    for (kind = 0; kind < KINDS; kind++)
        for (half = 1; half < 3; half++) {
            const tfb_dtype dtype = kv_dtypes[half];
            tfb_kv_opts o = opts_of(kind, 1, shape_of(1, 16, 64, 64, 64));
            tfb_tensor key = tfb_view4(in[0], dtype, 1, 16, 64, 64);
            tfb_tensor value = tfb_view4(in[1], dtype, 1, 16, 64, 64);
            tfb_kv kv;
            void *mem;
            o.dtype = dtype;
            mem = cache_new(&ctx, &kv, IS_STATIC(kind), &o);
            CHECK_OK(&ctx, tfb_kv_append(&ctx, &kv, 0, &key, &value));
            key.data = out[0], value.data = out[1];
            CHECK_OK(&ctx, tfb_kv_get(&ctx, &kv, 0, &key, &value));
            for (i = 0; i < 2 * 65536; i++)
                CHECK(half_is_nan(in[i / 65536][i % 65536], dtype)
                          ? half_is_nan(out[i / 65536][i % 65536], dtype)
                          : in[i / 65536][i % 65536] == out[i / 65536][i % 65536],
                      "%s dtype %d: %x", kind_names[kind], (int)dtype, (unsigned)i);
            tfb_kv_free(&kv);
            free(mem);
        }
    tfb_ctx_free(&ctx);
}

/* Outputs in any layout: nothing between their elements is touched. */
static void get_into_strides(void) {
    tfb_ctx ctx;
    int kind;
    t_ctx(&ctx, NULL);
    for (kind = 0; kind < KINDS; kind++) {
        const tfb_kv_opts o = opts_of(kind, 1, shape_of(2, 2, 3, 3, 20));
        rows r = rows_new(2, 2, 20, 3, 3, 0);
        float wide[2 * 2 * 20 * 3 * 2];
        tfb_tensor t = tfb_view4(wide, TFB_F32, 2, 2, 20, 3);
        tfb_kv kv;
        void *mem = cache_new(&ctx, &kv, IS_STATIC(kind), &o);
        int i;
        CHECK_OK(&ctx, feed(&ctx, &kv, 0, &r, 0, 20));
        for (i = 0; i < COUNT(wide); i++) wide[i] = -777.0f;
        for (i = 0; i < 4; i++) t.stride[i] *= -2; /* backwards, every other */
        t.data = wide + COUNT(wide) - 2;
        CHECK_OK(&ctx, tfb_kv_get(&ctx, &kv, 0, NULL, &t));
        CHECK(same_rows(&t, &r.value, 0, 20), "%s: values", kind_names[kind]);
        for (i = 1; i < COUNT(wide); i += 2) CHECK(wide[i] == -777.0f, "stray write");
        CHECK_OK(&ctx, tfb_kv_get(&ctx, &kv, 0, NULL, NULL));
        tfb_kv_free(&kv);
        free(mem);
        rows_free(&r);
    }
    tfb_ctx_free(&ctx);
}

/* --- Turned keys. --- */
/* Rows from .. to - 1 of sample b (-1: all) of x turned on by delta positions, or all
 * rows from position `start` on. */
static void turn(tfb_ctx *ctx, tfb_tensor *x, tfb_idx b, tfb_idx from, tfb_idx to,
                 tfb_idx delta, const tfb_rope_opts *rope) {
    tfb_rope_opts o = *rope;
    tfb_tensor part = *x, positions;
    static int32_t at[256];
    tfb_idx i;
    if (b >= 0) CHECK_OK(ctx, tfb_slice(ctx, x, 0, b, 1, &part));
    CHECK_OK(ctx, tfb_slice(ctx, &part, 2, from, to - from, &part));
    for (i = 0; i < to - from; i++) at[i] = (int32_t)delta;
    positions = tfb_view1(at, TFB_I32, to - from);
    o.positions = &positions;
    o.magnitude = 1;
    CHECK_OK(ctx, tfb_rope(ctx, &part, &o, &part));
}

static tfb_rope_opts rope_of(int which) {
    tfb_rope_opts o = TFB_INIT;
    o.base = which == 1 ? 500 : 0;
    o.dims = which == 2 ? 4 : 0;
    o.interleaved = which == 3;
    o.inverse = which == 4;
    o.compat = which == 5;
    if (which == 6) {
        o.scaling = TFB_ROPE_YARN;
        o.factor = 4;
        o.trained_length = 64;
    }
    return o;
}

/* The bits of rope on what was there; nothing else moves. */
static void shift_is_rope(tfb_ctx *ctx, int kind, tfb_dtype dtype, int which) {
    static const struct {
        tfb_idx b, from, to, delta;
    } shifts[] = {{-1, 0, 70, 5}, {0, 3, 50, -3}, {1, 0, 1, 100},
                  {1, 64, 70, 1}, {-1, 7, 7, 9},  {-1, 20, 70, 0}};
    tfb_kv_opts o = opts_of(kind, 2, shape_of(2, 2, 8, 3, 70));
    const tfb_rope_opts rope = rope_of(which);
    rows r = rows_new(2, 2, 70, 8, 3, 0), got;
    tfb_tensor want, key;
    tfb_kv kv;
    void *mem;
    int i;
    o.dtype = dtype;
    mem = cache_new(ctx, &kv, IS_STATIC(kind), &o);
    CHECK_OK(ctx, feed(ctx, &kv, 1, &r, 0, 70));
    key = rounded(ctx, &r.key, dtype);
    for (i = 0; i < COUNT(shifts); i++) {
        CHECK_OK(ctx, tfb_kv_shift(ctx, &kv, shifts[i].b, shifts[i].from, shifts[i].to,
                                   shifts[i].delta, &rope));
        turn(ctx, &key, shifts[i].b, shifts[i].from, shifts[i].to, shifts[i].delta,
             &rope);
        want = rounded(ctx, &key, dtype);
        got = rows_of(ctx, &kv, 1);
        CHECK(same_bytes(&got.key, &want), "%s dtype %d rope %d: shift %d",
              kind_names[kind], (int)dtype, which, i);
        tfb_tensor_free(ctx, &key);
        key = want;
        want = rounded(ctx, &r.value, dtype);
        CHECK(same_bytes(&got.value, &want), "values moved");
        tfb_tensor_free(ctx, &want);
        rows_free(&got);
    }
    tfb_tensor_free(ctx, &key);
    tfb_kv_free(&kv);
    free(mem);
    rows_free(&r);
}

static void shift_has_the_bits_of_rope(void) {
    tfb_ctx ctx;
    t_heap heap;
    int kind, dtype, which;
    t_ctx(&ctx, &heap);
    for (kind = 0; kind < KINDS; kind++)
        for (dtype = 0; dtype < 3; dtype++)
            for (which = 0; which < 7; which++)
                shift_is_rope(&ctx, kind, kv_dtypes[dtype], which);
    tfb_ctx_free(&ctx);
    CHECK(heap.live == 0, "%ld blocks leaked", heap.live);
}

/* Turning what rope turned is rope at other positions, but for rounding. */
static void shift_moves_positions(void) {
    tfb_ctx ctx;
    int which, i;
    t_ctx(&ctx, NULL);
    for (which = 0; which < 4; which++) {
        const tfb_kv_opts o = opts_of(DYNAMIC, 1, shape_of(0, 0, 0, 0, 0));
        rows r = rows_new(1, 2, 40, 8, 8, 0), raw = rows_new(1, 2, 40, 8, 8, 0), got;
        tfb_rope_opts rope = rope_of(which);
        tfb_kv kv;
        CHECK_OK(&ctx, tfb_copy(&ctx, &r.key, &raw.key));
        CHECK_OK(&ctx, tfb_kv_init(&ctx, &kv, &o));
        rope.start = 10;
        CHECK_OK(&ctx, tfb_rope(&ctx, &raw.key, &rope, &r.key));
        CHECK_OK(&ctx, feed(&ctx, &kv, 0, &r, 0, 40));
        CHECK_OK(&ctx, tfb_kv_shift(&ctx, &kv, -1, 0, 40, -7, &rope));
        rope.start = 3;
        CHECK_OK(&ctx, tfb_rope(&ctx, &raw.key, &rope, &r.key));
        got = rows_of(&ctx, &kv, 0);
        for (i = 0; i < 2 * 40 * 8; i++) {
            const float off = got.mem[0][i] - r.mem[0][i];
            CHECK(off < 1e-5f && off > -1e-5f, "off by %g", (double)off);
        }
        tfb_kv_free(&kv);
        rows_free(&got);
        rows_free(&raw);
        rows_free(&r);
    }
    tfb_ctx_free(&ctx);
}

/* --- Filled once; pairs. --- */
static void a_layer_is_filled_once(void) {
    tfb_ctx ctx;
    int kind;
    t_ctx(&ctx, NULL);
    for (kind = 0; kind < KINDS; kind++) {
        tfb_kv_opts o = opts_of(kind, 2, shape_of(2, 2, 4, 3, 20));
        rows r = rows_new(2, 2, 20, 4, 3, 0);
        tfb_kv kv;
        snapshot before;
        void *mem;
        o.once = 1;
        mem = cache_new(&ctx, &kv, IS_STATIC(kind), &o);
        CHECK_OK(&ctx, feed(&ctx, &kv, 0, &r, 0, 0)); /* that does not fill it */
        CHECK_OK(&ctx, feed(&ctx, &kv, 0, &r, 0, 9));
        before = snap(&kv);
        CHECK_FAILS(&ctx, TFB_ERR_FULL, "layer 0", feed(&ctx, &kv, 0, &r, 9, 1));
        CHECK_OK(&ctx, feed(&ctx, &kv, 0, &r, 9, 0));
        unchanged(&kv, &before, "filled already");
        CHECK_OK(&ctx, feed(&ctx, &kv, 1, &r, 0, 20));
        holds(&ctx, &kv, 0, &r, 9);
        tfb_kv_reset(&kv);
        CHECK_OK(&ctx, feed(&ctx, &kv, 0, &r, 5, 15));
        holds_from(&ctx, &kv, 0, &r, 5, 15);
        tfb_kv_free(&kv);
        free(mem);
        rows_free(&r);
    }
    tfb_ctx_free(&ctx);
}

typedef struct couple {
    tfb_kv_pair p;
    void *mem[2];
    rows self, cross;
} couple;

static void couple_new(tfb_ctx *ctx, couple *c, int kind) {
    tfb_kv_opts o = opts_of(kind, 2, shape_of(4, 2, 4, 3, 90));
    c->mem[0] = cache_new(ctx, &c->p.self, IS_STATIC(kind), &o);
    o.once = 1;
    o.shape.kv_heads = 1;
    c->mem[1] = cache_new(ctx, &c->p.cross, IS_STATIC(kind), &o);
    c->self = rows_new(2, 2, 70, 4, 3, 0);
    c->cross = rows_new(2, 1, 80, 5 - IS_STATIC(kind), 3, 0);
    CHECK_OK(ctx, feed(ctx, &c->p.self, 0, &c->self, 0, 70));
    CHECK_OK(ctx, feed(ctx, &c->p.self, 1, &c->self, 0, 70));
    CHECK_OK(ctx, feed(ctx, &c->p.cross, 1, &c->cross, 0, 80));
}

static void couple_free(couple *c) {
    tfb_kv_pair_free(&c->p);
    free(c->mem[0]);
    free(c->mem[1]);
    rows_free(&c->self);
    rows_free(&c->cross);
}

/* Sample i of every layer holds all of sample index[i]. */
static void couple_holds(tfb_ctx *ctx, const couple *c, const int32_t *index, tfb_idx n) {
    int layer;
    tfb_idx i;
    for (layer = 0; layer < 4; layer++) {
        const tfb_kv *kv = layer < 2 ? &c->p.self : &c->p.cross;
        const rows *want = layer < 2 ? &c->self : &c->cross;
        rows got = rows_of(ctx, kv, layer % 2);
        CHECK(tfb_kv_batch(kv, layer % 2) == (layer == 2 ? 0 : n), "batch");
        for (i = 0; layer != 2 && i < n; i++) {
            tfb_tensor a, b;
            CHECK_OK(ctx, tfb_slice(ctx, &got.key, 0, i, 1, &a));
            CHECK_OK(ctx, tfb_slice(ctx, &want->key, 0, index[i], 1, &b));
            CHECK(same_rows(&a, &b, 0, want->key.shape[2]), "layer %d sample %d", layer,
                  (int)i);
        }
        rows_free(&got);
    }
}

/* select (repeats 0) or repeat_interleave, with every allocation failing in turn. */
static void couple_becomes(couple *c, t_heap *heap, const tfb_tensor *index,
                           tfb_idx repeats) {
    tfb_status got = TFB_ERR_MEMORY;
    long nth;
    int failures = 0;
    for (nth = 1; got != TFB_OK && nth < 99; nth++) {
        snapshot self = snap(&c->p.self), cross = snap(&c->p.cross);
        tfb_ctx ctx;
        t_ctx(&ctx, NULL);
        ctx.alloc = t_alloc;
        ctx.alloc_user = heap;
        heap->fail_at = heap->calls + nth;
        got = repeats ? tfb_kv_pair_repeat_interleave(&ctx, &c->p, repeats)
                      : tfb_kv_pair_select(&ctx, &c->p, index);
        if (got != TFB_OK) {
            CHECK_FAILS(&ctx, TFB_ERR_MEMORY, "tfb_kv_pair_", got);
            unchanged(&c->p.self, &self, "self, no memory");
            unchanged(&c->p.cross, &cross, "cross, no memory");
            failures++;
        } else {
            free(self.mem);
            free(cross.mem);
        }
        heap->fail_at = 0;
        tfb_ctx_free(&ctx);
    }
    CHECK(failures > 0, "nothing was allocated");
}

static void pairs_change_both_or_none(void) {
    static const int32_t swap[] = {1, 0, 1}, repeat[] = {1, 1, 0, 0, 1, 1};
    tfb_ctx ctx;
    t_heap heap;
    int kind;
    t_ctx(&ctx, &heap);
    for (kind = 0; kind < KINDS; kind++) {
        int32_t bad[] = {0, 1, 2, 0, 1, 0};
        const tfb_tensor index = tfb_view1(swap, TFB_I32, 3);
        const tfb_tensor none = tfb_view1(bad, TFB_I32, 3);
        couple c;
        snapshot self, cross;
        couple_new(&ctx, &c, kind);
        self = snap(&c.p.self), cross = snap(&c.p.cross);
        CHECK_FAILS(&ctx, TFB_ERR_RANGE, "tfb_kv_pair_select",
                    tfb_kv_pair_select(&ctx, &c.p, &none));
        CHECK_FAILS(&ctx, TFB_ERR_ARG, "pair is NULL",
                    tfb_kv_pair_select(&ctx, NULL, &index));
        CHECK_FAILS(&ctx, TFB_ERR_ARG, "index is NULL",
                    tfb_kv_pair_select(&ctx, &c.p, NULL));
        CHECK_FAILS(&ctx, TFB_ERR_ARG, "pair is NULL",
                    tfb_kv_pair_repeat_interleave(&ctx, NULL, 2));
        CHECK(tfb_kv_pair_repeat_interleave(&ctx, &c.p, 0) != TFB_OK, "0 times");
        unchanged(&c.p.self, &self, "self");
        unchanged(&c.p.cross, &cross, "cross");
        couple_becomes(&c, &heap, &index, 0);
        couple_holds(&ctx, &c, swap, 3);
        if (!IS_STATIC(kind)) {
            couple_becomes(&c, &heap, NULL, 2);
            couple_holds(&ctx, &c, repeat, 6);
        }
        tfb_kv_pair_reset(&c.p);
        CHECK(!tfb_kv_length(&c.p.self, 0) && !tfb_kv_length(&c.p.cross, 1), "reset");
        couple_free(&c);
    }
    tfb_ctx_free(&ctx);
    CHECK(heap.live == 0, "%ld blocks leaked", heap.live);
}

/* A static cross cache without room: the self cache, which has some, stays as it is. */
static void pairs_of_different_room(void) {
    static const int32_t four[] = {0, 1, 0, 1};
    const tfb_tensor index = tfb_view1(four, TFB_I32, 4);
    tfb_ctx ctx;
    couple c;
    tfb_kv_opts o = opts_of(STATIC, 2, shape_of(3, 1, 5, 3, 90));
    snapshot self, cross;
    t_ctx(&ctx, NULL);
    couple_new(&ctx, &c, DYNAMIC);
    tfb_kv_free(&c.p.cross);
    c.mem[1] = cache_new(&ctx, &c.p.cross, 1, &o);
    CHECK_OK(&ctx, feed(&ctx, &c.p.cross, 1, &c.cross, 0, 80));
    self = snap(&c.p.self), cross = snap(&c.p.cross);
    CHECK_FAILS(&ctx, TFB_ERR_FULL, "tfb_kv_pair_select",
                tfb_kv_pair_select(&ctx, &c.p, &index));
    CHECK_FAILS(&ctx, TFB_ERR_FULL, "tfb_kv_pair_repeat_interleave",
                tfb_kv_pair_repeat_interleave(&ctx, &c.p, 2));
    unchanged(&c.p.self, &self, "self");
    unchanged(&c.p.cross, &cross, "cross");
    couple_free(&c);
    tfb_ctx_free(&ctx);
}

int main(void) {
    RUN(positions_of_rows);
    RUN(positions_that_are_refused);
    RUN(ragged_counts);
    RUN(crop_keeps_the_first);
    RUN(keep_last_moves_the_base);
    RUN(samples_change_places);
    RUN(rollback_forgets);
    RUN(rings_turn);
    RUN(rings_at_positions);
    RUN(rings_cropped_and_rolled_back);
    RUN(get_converts);
    RUN(halves_keep_their_bits);
    RUN(get_into_strides);
    RUN(shift_has_the_bits_of_rope);
    RUN(shift_moves_positions);
    RUN(a_layer_is_filled_once);
    RUN(pairs_change_both_or_none);
    RUN(pairs_of_different_room);
    FINISH();
}
