# moetuner: `make run` starts a server, `make test` runs the tests, `make help` lists the rest.
# Options: CC=clang, SAN=address,undefined | thread, DEBUG=1, WERROR=1, V=1, B=folder.

comma   := ,
SAN     ?=
B       := build$(if $(SAN),/$(subst $(comma),-,$(SAN)))
ifeq ($(origin CC),default)
CC      := gcc
endif
Q       := $(if $(V),,@)
say      = $(if $(V),,@printf '  %-5s %s\n' $(1) $(2))

WARN    := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla $(if $(CI)$(WERROR),-Werror)
CFLAGS  ?= $(if $(DEBUG),-O0,-O2) -g
ALL_CFLAGS := -std=c17 -D_GNU_SOURCE -I. $(WARN) -ffp-contract=off -fno-math-errno -pthread $(CFLAGS)
LDLIBS  := -pthread -lm
ifneq ($(SAN),)
ALL_CFLAGS += -fsanitize=$(SAN) -fno-omit-frame-pointer $(if $(findstring undefined,$(SAN)),-fno-sanitize-recover=undefined)
LDFLAGS += -fsanitize=$(SAN) $(if $(findstring address,$(SAN)),-rdynamic)
endif

# --- parts -----------------------------------------------------------------------------------------
# One library a directory. Headers and libraries from outside are named where they are allowed, and nowhere else.
MPI_CFLAGS := $(shell pkg-config --cflags ompi-c 2>/dev/null || mpicc --showme:compile 2>/dev/null)
MPI_LIBS   := $(shell pkg-config --libs ompi-c 2>/dev/null || mpicc --showme:link 2>/dev/null)

LIBS_api       := api
LIBS_placement := placement api
LIBS_kernels   := kernels api
LIBS_worker    := worker kernels api
LIBS_daemon    := daemon placement api
LIBS_cli       := cli daemon placement api
LIBS_all       := cli daemon placement worker kernels api
LIBS_fuzz      := cli daemon placement worker api

EXT_api        := -ljansson
EXT_placement  := -ljansson -llpsolve55 -lcolamd -lm
EXT_kernels    :=
EXT_worker     := -ljansson $(MPI_LIBS)
EXT_daemon     := -lmicrohttpd -lpcre2-8 -lutf8proc -lxxhash $(EXT_placement)
EXT_cli        := $(EXT_daemon) -lcurl
EXT_all        := -Wl,--as-needed $(EXT_daemon) $(MPI_LIBS) -lcurl

DIRS := api placement kernels worker daemon cli
# A directory's main.c is a program, everything else its library.
lib_src  = $(filter-out %/main.c,$(wildcard $(1)/*.c))
objs     = $(patsubst %.c,$(B)/obj/%.o,$(1))
libs_of  = $(foreach d,$(LIBS_$(1)),$(B)/lib$(d).a)
link     = mkdir -p $(@D) && $(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $(filter %.o %.a,$^)

# Kernels of the CPU are written once and compiled for each instruction set; the runtime picks one.
ISAS          := portable avx2 avx512
ISA_portable  :=
ISA_avx2      := -mavx2 -mfma -mf16c
ISA_avx512    := -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c
# Bit counting: what its own run-time check asks for (placement/bits.c).
COUNT_avx2    := -mpopcnt
COUNT_avx512  := -mpopcnt -mavx512vpopcntdq
isa_flags      = $(ISA_$(1)) $(if $(filter placement/%,$(2)),$(COUNT_$(1)))
cpu_objs       = $(foreach i,$(ISAS),$(patsubst %.c,$(B)/obj/%.$(i).o,$(wildcard $(1)/cpu/*.c)))

# --- for everyone ------------------------------------------------------------------------------------
.PHONY: all run test test-long bench deps detect lint tidy format fuzz fuzz-targets clean help programs tests force
.DEFAULT_GOAL := all
.SECONDARY:

all: programs ## builds build/moetunerd, build/moetuner-worker and build/moetuner

# What deps installs changes what a Makefile finds: hence a second make. It uses all cores unless told otherwise.
build    = +$(Q)$(MAKE) --no-print-directory $(if $(findstring -j,$(MAKEFLAGS)),,-j$(shell nproc))
HAVE_FUZZER = $(wildcard $(shell clang -print-runtime-dir 2>/dev/null)/libclang_rt.fuzzer*.a)

run: deps ## installs what is missing, builds, starts the server on models/tiny (ARGS="--port=8000 ...")
	$(build) programs
	@exec $(B)/moetunerd --model=models/tiny --ranks=2 $(ARGS)

test: deps ## installs what is missing, builds, runs all tests that need no GPU (ONLY="unit e2e": some)
	$(build) programs tests $(if $(HAVE_FUZZER),fuzz-targets)
	@B=$(B) SAN=$(SAN) tests/run.sh $(ONLY)

test-long: deps ## soaks: the same tests with more rounds, and tests/long
	$(build) programs tests $(if $(HAVE_FUZZER),fuzz-targets)
	@B=$(B) SAN=$(SAN) MT_LONG=1 FUZZ_SECONDS=60 TEST_TIMEOUT=5400 tests/run.sh $(ONLY)

deps: ## installs missing packages (Debian 12, Ubuntu 24.04); prints the list elsewhere
	@.ci/deps.sh

lint: ## formatting, clang-tidy, include rules, size limits
	+@MAKE='$(MAKE)' tests/lint/run.sh

format: ## applies .clang-format
	@git ls-files '*.c' '*.h' | xargs clang-format -i

clean: ## removes build/
	rm -rf build

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile
	@sed -n 's/^# Options: /  Options: /p' Makefile

detect: | $(B)/ ## prints what the build found
	@.ci/detect.sh build/found

# --- how things are built ----------------------------------------------------------------------------
NODLCLOSE := $(if $(findstring address,$(SAN)),$(B)/obj/tests/san/nodlclose.o)
PROGRAMS := $(B)/moetunerd $(B)/moetuner-worker $(B)/moetuner
programs: $(PROGRAMS)

$(B)/:
	@mkdir -p $@

# Rewritten when they change, so that another compiler or option rebuilds all, and a file that went away relinks.
define STAMP_RULE
$(B)/$(1): force | $(B)/
	@printf '%s\n' '$(2)' | cmp -s - $$@ || printf '%s\n' '$(2)' >$$@
endef
$(eval $(call STAMP_RULE,flags,$(CC) $(filter-out -Werror,$(ALL_CFLAGS)) $(LDFLAGS)))
$(foreach d,$(DIRS),$(eval $(call STAMP_RULE,sources-$(d),$(sort $(wildcard $(d)/*.c $(d)/cpu/*.c tests/unit/$(d)/*.c)))))

$(B)/moetunerd: $(B)/obj/daemon/main.o $(call libs_of,daemon)
	$(call say,LD,$@)
	$(Q)$(link) $(EXT_daemon) $(LDLIBS)

$(B)/moetuner-worker: $(B)/obj/worker/main.o $(call libs_of,worker) $(NODLCLOSE)
	$(call say,LD,$@)
	$(Q)$(link) $(EXT_worker) $(LDLIBS)

$(B)/moetuner: $(B)/obj/cli/main.o $(call libs_of,cli)
	$(call say,LD,$@)
	$(Q)$(link) $(EXT_cli) $(LDLIBS)

define LIB_RULE
$(B)/lib$(1).a: $(call objs,$(call lib_src,$(1))) $(call cpu_objs,$(1)) $(B)/sources-$(1)
	$$(call say,AR,$$@)
	$(Q)rm -f $$@ && ar rcs $$@ $$(filter %.o,$$^)
endef
$(foreach d,$(DIRS),$(eval $(call LIB_RULE,$(d))))

define ISA_RULE
$(B)/obj/%.$(1).o: %.c $(B)/flags | detect
	$$(call say,CC,$$<:$(1))
	$(Q)mkdir -p $$(@D) && $(CC) $(ALL_CFLAGS) $(if $(SAN),-O1,-O3) -MMD -MP -DKERNELS_ISA_$(1) $$(call isa_flags,$(1),$$<) -c -o $$@ $$<
endef
$(foreach i,$(ISAS),$(eval $(call ISA_RULE,$(i))))

$(B)/obj/%.o: %.c $(B)/flags | detect
	$(call say,CC,$<)
	$(Q)mkdir -p $(@D) && $(CC) $(ALL_CFLAGS) $(if $(filter worker/% tests/unit/worker/% tests/mpi/%,$<),$(MPI_CFLAGS)) -MMD -MP -c -o $@ $<

# --- tests -------------------------------------------------------------------------------------------
# tests/unit/<dir>/test_<x>.c links that directory's library and what it may include, nothing else.
# tests/unit/<dir>/<other>.c is shared by the tests of that directory (a fake, an oracle).
# tests/{fake,property,mpi,e2e}/<x>.c and tests/bench/bench_<x>.c are programs $(B)/tests/<dir>/<x> that may use all.
UNIT_BIN := $(patsubst tests/unit/%.c,$(B)/unit/%,$(wildcard tests/unit/*/test_*.c))
TEST_BIN := $(patsubst %.c,$(B)/%,$(wildcard $(patsubst %,tests/%/*.c,fake property mpi e2e)))
BENCH    := $(patsubst %.c,$(B)/%,$(wildcard tests/bench/bench_*.c))
FUZZ     := $(patsubst tests/fuzz/%.c,$(B)/%,$(wildcard tests/fuzz/fuzz_*.c))

tests: $(UNIT_BIN) $(TEST_BIN)

bench: $(BENCH) programs ## speed of the server on models/tiny beside the machine's ceilings: a table and a plot in build/bench
	@B=$(B) tests/bench/serve.py $(ARGS)

define UNIT_RULE
$(B)/unit/$(1)/%: $(B)/obj/tests/unit/$(1)/%.o $(call objs,$(filter-out tests/unit/$(1)/test_%.c,$(wildcard tests/unit/$(1)/*.c))) $(call libs_of,$(1)) $(B)/sources-$(1)
	$$(call say,LD,$$@)
	$(Q)$$(link) -lcmocka $(EXT_$(1)) -Wl,--as-needed -lcurl $(LDLIBS)
endef
$(foreach d,$(DIRS),$(eval $(call UNIT_RULE,$(d))))

$(B)/unit/placement/test_joint: private LDFLAGS += -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=free
$(BENCH): $(call objs,tests/bench/ceiling.c)
$(TEST_BIN) $(BENCH): $(B)/%: $(B)/obj/%.o $(call libs_of,all) $(NODLCLOSE)
	$(call say,LD,$@)
	$(Q)$(link) $(EXT_all) $(LDLIBS)

# Fuzz targets are built by clang with instrumented libraries, in a folder of their own: see fuzz below.
$(FUZZ): $(B)/%: $(B)/obj/tests/fuzz/%.o $(call libs_of,fuzz)
	$(call say,LD,$@)
	$(Q)$(link) -fsanitize=fuzzer $(EXT_all) $(LDLIBS)

fuzz-targets:
	@$(MAKE) --no-print-directory CC=clang SAN=fuzzer-no-link,address,undefined B=build/fuzz \
	  $(patsubst tests/fuzz/%.c,build/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))

fuzz: fuzz-targets ## runs each fuzz target for FUZZ_SECONDS (60), new inputs in build/fuzz/corpus
	@FUZZ_SECONDS=$(or $(FUZZ_SECONDS),60) tests/run.sh fuzz

# --- lint --------------------------------------------------------------------------------------------
HEADERS := $(wildcard $(addsuffix /*.h,$(DIRS) tests/* tests/unit/*))

tidy: $(patsubst %.c,build/tidy/%,$(shell git ls-files '*.c'))

build/tidy/%: %.c $(HEADERS) .clang-tidy tests/.clang-tidy
	$(call say,TIDY,$<)
	$(Q)mkdir -p $(@D) && clang-tidy --quiet $< -- -std=c17 -D_GNU_SOURCE -I. $(MPI_CFLAGS) \
	  $(if $(findstring /cpu/,$<),-DKERNELS_ISA_avx2 $(ISA_avx2)) 2>$@.log || { cat $@.log; exit 1; }
	@touch $@

-include $(shell find $(B)/obj -name '*.d' 2>/dev/null)
