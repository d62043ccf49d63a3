#!/bin/sh
# Builds and runs test_hash on emulated boards, and tests/compile/parts.c where memory is
# too short for it, against the same program here: "ok M4F test_hash" and so on, by the
# exit status that the board gives. BOARDS="M0 M4F" runs only those. A file with main.c
# as argument is run on M4F instead, with its output.
cd "$(dirname "$0")/../.." || exit 1
here=tests/embedded
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
failed=0
arm="arm-none-eabi-gcc -std=c99 -Os -g1 -I. -ffunction-sections -fdata-sections
    -Wl,--gc-sections -mthumb -nostartfiles -specs=nano.specs -specs=rdimon.specs
    -T $here/board.ld"

missing() { # the first of the programs that is not there
    for program in "$@"; do
        command -v "$program" >/dev/null 2>&1 || { echo "$program"; return; }
    done
}

verdict() { # name, status
    if [ "$2" = 0 ]; then
        echo "ok $1"
    else
        grep '^FAIL\|test_\|\[' "$work/out" | head -n 10
        echo "FAIL $1: exit status $2"
        failed=1
    fi
}

emulate() { # emulator, machine, image
    timeout 300 "$1" -M "$2" -nographic -monitor none -serial none \
        -semihosting-config enable=on,target=native $4 -kernel "$3" >"$work/out" 2>&1
}

# The hashes must be those stored, or those of the same program on this machine.
judge() { # board, test, status
    [ "$3" != 0 ] || [ "$2" != parts ] || cmp -s "$work/out" "$work/parts" ||
        { verdict "$1 $2" "0, but another hash"; return; }
    [ "$3" != 0 ] || [ "$2" = parts ] || grep -q '^ok .* map_exp ' "$work/out" ||
        { verdict "$1 $2" "0, but no output"; return; }
    verdict "$1 $2" "$3"
}

source_of() { # test
    if [ "$1" = parts ]; then echo tests/compile/parts.c; else echo tests/unit/$1.c; fi
}

board() { # name, machine, test, flash at, bytes, ram at, bytes, flags
    name=$1 machine=$2 test=$3
    case " ${BOARDS:-$name} " in *" $name "*) ;; *) return ;; esac
    lacks=$(missing arm-none-eabi-gcc qemu-system-arm)
    [ -z "$lacks" ] || { echo "skip $name $test: no $lacks"; return; }
    at="-Wl,--defsym=FLASH_AT=$4,--defsym=FLASH_BYTES=$5"
    at="$at,--defsym=RAM_AT=$6,--defsym=RAM_BYTES=$7"
    shift 7
    $arm "$@" $at $here/start.c "$(source_of "$test")" -o "$work/elf" -lm \
        >"$work/out" 2>&1 || { verdict "$name $test" "of the compiler"; return; }
    emulate qemu-system-arm "$machine" "$work/elf"
    judge "$name" "$test" $?
}

riscv() { # name, test, flags
    name=$1 test=$2
    case " ${BOARDS:-$name} " in *" $name "*) ;; *) return ;; esac
    lacks=$(missing riscv64-unknown-elf-gcc qemu-system-riscv32)
    [ -z "$lacks" ] || { echo "skip $name $test: no $lacks"; return; }
    shift 2
    riscv64-unknown-elf-gcc -std=c99 -Os -I. -ffunction-sections -fdata-sections \
        -Wl,--gc-sections -mcmodel=medany "$@" --specs=picolibc.specs --oslib=semihost \
        --crt0=hosted -Wl,--defsym=__flash=0x80000000,--defsym=__flash_size=2M \
        -Wl,--defsym=__ram=0x80200000,--defsym=__ram_size=4M \
        "$(source_of "$test")" -o "$work/elf" >"$work/out" 2>&1 ||
        { verdict "$name $test" "of the compiler"; return; }
    emulate qemu-system-riscv32 virt "$work/elf" "-bios none"
    judge "$name" "$test" $?
}

cc -std=c99 -O1 -DTFB_SMALL -I. tests/compile/parts.c -o "$work/here" &&
    "$work/here" >"$work/parts" || verdict "parts on this machine" 1
echo "skip M0 test_hash: 16 KB of memory; parts.c runs instead"
board M0 microbit parts 0 256K 0x20000000 16K -mcpu=cortex-m0 -DTFB_SMALL
board M3 mps2-an385 test_hash 0 4M 0x20000000 4M -mcpu=cortex-m3 -DTFB_SMALL
board M4F mps2-an386 test_hash 0 4M 0x20000000 4M -mcpu=cortex-m4 -mfloat-abi=hard \
    -mfpu=fpv4-sp-d16
board M7 mps2-an500 test_hash 0 4M 0x20000000 4M -mcpu=cortex-m7 -mfloat-abi=hard \
    -mfpu=fpv5-d16
board M33 mps2-an505 test_hash 0x10000000 4M 0x38000000 4M -mcpu=cortex-m33 \
    -mfloat-abi=hard -mfpu=fpv5-sp-d16 -DTFB_SMALL
board M55 mps3-an547 test_hash 0 512K 0x60000000 16M -mcpu=cortex-m55 \
    -mfloat-abi=hard
riscv RV32 test_hash -march=rv32imafc -mabi=ilp32f -DTFB_SMALL
exit $failed
