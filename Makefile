# tfblocks: `make` alone lists what there is.
CC      = cc
CLANG   = clang-14
TORCH   = /usr/bin/python3
CFLAGS  = -std=c99 -O1 -g1
WARN    = -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Wundef \
          -Wcast-qual -Wstrict-prototypes -Wdouble-promotion -Wvla -Werror
LINKED  = -DTFB__TABLES=2 -DTFB_STATIC # what a test does not call is not compiled
FMA    := $(shell grep -qw fma /proc/cpuinfo 2>/dev/null && echo -mfma) # else it is slow
SANE    = -std=c99 -O1 -g1 $(FMA) -fsanitize=address,undefined -fno-sanitize-recover=all

TESTS   = $(sort $(notdir $(basename $(wildcard tests/unit/test_*.c tests/isa/test_*.c \
          tests/golden/test_*.c tests/fuzz/test_*.c))))
DEPS    = tfblocks.h $(wildcard tests/*.h tests/unit/*.h tests/fuzz/*.h) \
          examples/05_generate/main.c
SCRIPTS = tests/fuzz/run.sh\ 90 tests/tools/faults.sh tests/compile/run.sh \
          $(sort $(wildcard tests/tools/check_*.sh)) # the longest first
TARGETS = $(shell awk '$$1 == "build" {print $$2}' tests/targets/hosted.txt)
EXAMPLES = $(sort $(notdir $(patsubst %/main.c,%,$(wildcard examples/*/main.c))))
CLANGED = $(shell command -v $(CLANG) >/dev/null 2>&1 && echo $(TESTS:%=build/clang/%))
VPATH   = tests/unit:tests/isa:tests/golden:tests/fuzz

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' Makefile

run: build/generate ## generate text; MODEL= TOKENIZER= EVAL= SEED= STEPS= TEMPERATURE= ISA=
	@build/generate --model "$(or $(MODEL),examples/05_generate/model.bin)" \
	    --tokenizer "$(TOKENIZER)" --eval "$(EVAL)" --seed "$(SEED)" \
	    --steps "$(STEPS)" --temperature "$(TEMPERATURE)" --isa "$(ISA)"

test: ## build and run every test; what cannot run here is listed as skipped
	@$(MAKE) -s -j2 build-tests
	@TFB_TEST_LOG=build/test.log sh tests/tools/run.sh $(SCRIPTS) \
	    $(TARGETS:%=tests/targets/run.sh\ %) $(TESTS:%=build/sane/%) \
	    $(TESTS:%=TFB_TEST_ISA=scalar\ build/sane/%) $(TESTS:%=build/cc/%) $(CLANGED)

quick: $(TESTS:%=build/cc/%) ## the unit tests alone, on the best table
	@sh tests/tools/run.sh $^

targets: ## the tests on other machines, by emulators; TARGETS="s390x .." for some
	@sh tests/tools/run.sh $(TARGETS:%=tests/targets/run.sh\ %)

support: ## write what the last make test ran into README
	@sh tests/tools/support.sh --write

build-tests: $(TESTS:%=build/cc/%) $(CLANGED) $(TESTS:%=build/sane/%)

fuzz: ## run the fuzz targets with libFuzzer; SECONDS= in all
	@sh tests/fuzz/run.sh $(or $(SECONDS),180)

coverage: ## lines and branches that the tests reach, for each instruction set
	@python3 tests/tools/coverage.py

mutants: ## small random faults, which tests must notice; N= SEED= SECTION=
	@python3 tests/tools/mutants.py --number $(or $(N),600) --seed $(or $(SEED),1) \
	    --section $(or $(SECTION),0)

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

# A kind of build: its tables once, and a program for each test.
define kind
build/$(1)/%: %.c $$(DEPS) build/$(1)/tables.o
	$(2) $$(LINKED) -I. $$< build/$(1)/tables.o -o $$@ -lm -lpthread

build/$(1)/tables.o: tests/tables.c tfblocks.h
	@mkdir -p $$(@D)
	$(2) -I. -c $$< -o $$@
endef
$(eval $(call kind,cc,$(CC) $(CFLAGS) $(WARN)))
$(eval $(call kind,clang,$(CLANG) $(CFLAGS) $(WARN)))
$(eval $(call kind,sane,$(CC) $(SANE)))

.PHONY: build-tests $(shell sed -n 's/^\([a-z-]*\):.*\#\# .*/\1/p' Makefile)
