# tfblocks: `make` alone lists what there is.
CC      = cc
CLANG   = clang-14
TORCH   = /usr/bin/python3
CFLAGS  = -std=c99 -O2 -g1
WARN    = -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Wundef \
          -Wcast-qual -Wstrict-prototypes -Wdouble-promotion -Wvla -Werror
LINKED  = -DTFB__TABLES=2
SANE    = -std=c99 -O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=all

TESTS   = $(sort $(notdir $(basename $(wildcard tests/unit/test_*.c tests/isa/test_*.c \
          tests/golden/test_*.c))))
DEPS    = tfblocks.h tests/test.h $(wildcard tests/unit/*.h) examples/05_generate/main.c
SCRIPTS = tests/tools/faults.sh tests/compile/run.sh \
          $(sort $(wildcard tests/tools/check_*.sh)) # the longest first
EXAMPLES = $(sort $(notdir $(patsubst %/main.c,%,$(wildcard examples/*/main.c))))
CLANGED = $(shell command -v $(CLANG) >/dev/null 2>&1 && echo $(TESTS:%=build/clang/%))
VPATH   = tests/unit:tests/isa:tests/golden

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' Makefile

run: build/generate ## generate text; MODEL= TOKENIZER= EVAL= SEED= STEPS= TEMPERATURE= ISA=
	@build/generate --model "$(or $(MODEL),examples/05_generate/model.bin)" \
	    --tokenizer "$(TOKENIZER)" --eval "$(EVAL)" --seed "$(SEED)" \
	    --steps "$(STEPS)" --temperature "$(TEMPERATURE)" --isa "$(ISA)"

test: ## build and run every test; what cannot run here is listed as skipped
	@$(MAKE) -s -j2 build-tests
	@sh tests/tools/run.sh $(SCRIPTS) $(TESTS:%=build/sane/%) \
	    $(TESTS:%=TFB_TEST_ISA=scalar\ build/sane/%) $(TESTS:%=build/cc/%) \
	    $(TESTS:%=TFB_TEST_ISA=scalar\ build/cc/%) $(CLANGED)

quick: $(TESTS:%=build/cc/%) ## the unit tests alone, on the best table
	@sh tests/tools/run.sh $^

build-tests: $(TESTS:%=build/cc/%) $(CLANGED) $(TESTS:%=build/sane/%)

bench: build/bench ## time ours against installed peers; BENCH=--sweep: over many sizes
	@build/bench $(BENCH)

bench-torch: ## time attention in PyTorch too, on the shapes of build/bench.tsv; CPU=
	@taskset -c $(or $(CPU),0) $(TORCH) tests/bench/attention_torch.py

bench-vit: build/vit build/bench ## time ViT-B/16 in ours and in PyTorch; CPU=
	@taskset -c $(or $(CPU),0) build/bench --quick --only limits --out build/limits.tsv \
	    >/dev/null
	@taskset -c $(or $(CPU),0) $(TORCH) tests/bench/vit_torch.py build/vit \
	    build/limits.tsv

bench-plot: ## draw build/bench.tsv and build/sweep.tsv, those that are there, as .svg
	@python3 tests/bench/plot.py

firmware: ## build examples/16_firmware for Cortex-M4F, run it, report flash, RAM, stack
	@sh tests/embedded/firmware.sh

boards: ## the stored hashes on emulated Cortex-M and RISC-V boards; BOARDS="M0 M4F"
	@BOARDS="$(BOARDS)" sh tests/embedded/run.sh

size: ## write the README's table of bytes per block; compare tests/embedded/budgets.txt
	@sh tests/embedded/size.sh write
	@sh tests/embedded/size.sh budgets

format: ## run clang-format over all sources
	@clang-format -i tfblocks.h tests/*.h tests/*/*.[ch] examples/*/*.c

clean: ## remove build/
	@rm -rf build

build/generate: examples/05_generate/main.c tfblocks.h
	@mkdir -p $(@D)
	@$(CC) -O2 $< -o $@

build/vit: examples/15_vit/main.c tfblocks.h
	@mkdir -p $(@D)
	@$(CC) -O2 $< -o $@

build/bench: tests/bench/bench.c tfblocks.h
	@mkdir -p $(@D)
	@$(CC) -O2 -I. $< -o $@ -ldl -lm

build/cc/%: %.c $(DEPS) build/cc/tables.o
	$(CC) $(CFLAGS) $(WARN) $(LINKED) -I. $< build/cc/tables.o -o $@ -lm -lpthread

build/cc/tables.o: tests/tables.c tfblocks.h
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(WARN) -I. -c $< -o $@

build/clang/%: %.c $(DEPS) build/clang/tables.o
	$(CLANG) $(CFLAGS) $(WARN) $(LINKED) -I. $< build/clang/tables.o -o $@ -lm -lpthread

build/clang/tables.o: tests/tables.c tfblocks.h
	@mkdir -p $(@D)
	$(CLANG) $(CFLAGS) $(WARN) -I. -c $< -o $@

build/sane/%: %.c $(DEPS) build/sane/tables.o
	$(CC) $(SANE) $(LINKED) -I. $< build/sane/tables.o -o $@ -lm -lpthread

build/sane/tables.o: tests/tables.c tfblocks.h
	@mkdir -p $(@D)
	$(CC) $(SANE) -I. -c $< -o $@

.PHONY: help run test quick build-tests bench bench-torch bench-vit bench-plot firmware \
    boards size format clean
