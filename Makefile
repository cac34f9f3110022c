# moetuner: `make run` starts a server, `make test` runs the tests, `make help` lists the rest.
# Options: CC=clang, SAN=address,undefined | thread, DEBUG=1, V=1.

comma   := ,
SAN     ?=
B       := build$(if $(SAN),/$(subst $(comma),-,$(SAN)))
CC      ?= gcc
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

# --- parts ---------------------------------------------------------------------------------------------------------
# One library a directory. Headers and libraries from outside are named where they are allowed, and nowhere else.
MPI_CFLAGS := $(shell pkg-config --cflags ompi-c 2>/dev/null || mpicc --showme:compile 2>/dev/null)
MPI_LIBS   := $(shell pkg-config --libs ompi-c 2>/dev/null || mpicc --showme:link 2>/dev/null)

LIBS_api       :=
LIBS_placement := placement api
LIBS_kernels   := kernels api
LIBS_worker    := worker kernels api
LIBS_daemon    := daemon placement api
LIBS_cli       := cli daemon placement api

EXT_api        := -ljansson
EXT_placement  := -ljansson
EXT_kernels    :=
EXT_worker     := -ljansson $(MPI_LIBS)
EXT_daemon     := -lmicrohttpd -ljansson -lpcre2-8 -lutf8proc -lxxhash -lcurl
EXT_cli        := $(EXT_daemon)

DIRS := api placement kernels worker daemon cli
# A directory's main.c is a program, everything else its library.
lib_src  = $(filter-out %/main.c,$(wildcard $(1)/*.c))
objs     = $(patsubst %.c,$(B)/obj/%.o,$(1))
libs_of  = $(foreach d,$(LIBS_$(1)),$(B)/lib$(d).a)

# Kernels of the CPU are written once and compiled for each instruction set; the runtime picks one.
ISAS          := portable avx2 avx512
ISA_portable  :=
ISA_avx2      := -mavx2 -mfma -mf16c
ISA_avx512    := -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c
CPU_SRC       := $(wildcard kernels/cpu/*.c)
CPU_OBJ       := $(foreach i,$(ISAS),$(patsubst %.c,$(B)/obj/%.$(i).o,$(CPU_SRC)))

PROGRAMS := $(B)/moetunerd $(B)/moetuner-worker $(B)/moetuner

.PHONY: all run test test-long bench deps detect lint fuzz clean help unit e2e
.DEFAULT_GOAL := all
.SECONDARY:

all: detect $(PROGRAMS)

$(B)/moetunerd: $(B)/obj/daemon/main.o $(call libs_of,daemon)
	$(call say,LD,$@)
	$(Q)$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ $(EXT_daemon) $(LDLIBS)

$(B)/moetuner-worker: $(B)/obj/worker/main.o $(call libs_of,worker) $(if $(findstring address,$(SAN)),$(B)/obj/tests/san/nodlclose.o)
	$(call say,LD,$@)
	$(Q)$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ $(EXT_worker) $(LDLIBS)

$(B)/moetuner: $(B)/obj/cli/main.o $(call libs_of,cli)
	$(call say,LD,$@)
	$(Q)$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ $(EXT_cli) $(LDLIBS)

define LIB_RULE
$(B)/lib$(1).a: $(call objs,$(call lib_src,$(1))) $(if $(filter kernels,$(1)),$(CPU_OBJ))
	$$(call say,AR,$$@)
	$(Q)rm -f $$@ && ar rcs $$@ $$^
endef
$(foreach d,$(DIRS),$(eval $(call LIB_RULE,$(d))))

define ISA_RULE
$(B)/obj/%.$(1).o: %.c
	$$(call say,CC,$$<:$(1))
	$(Q)mkdir -p $$(@D) && $(CC) $(ALL_CFLAGS) -O3 -MMD -MP -DKERNELS_ISA_$(1) $(ISA_$(1)) -c -o $$@ $$<
endef
$(foreach i,$(ISAS),$(eval $(call ISA_RULE,$(i))))

$(B)/obj/%.o: %.c
	$(call say,CC,$<)
	$(Q)mkdir -p $(@D) && $(CC) $(ALL_CFLAGS) $(if $(filter worker/%,$<),$(MPI_CFLAGS)) -MMD -MP -c -o $@ $<

# --- tests ---------------------------------------------------------------------------------------------------------
# tests/unit/<dir>/test_<x>.c links that directory's library and what it may include, nothing else.
# tests/unit/<dir>/<other>.c is shared by the tests of that directory (a fake, an oracle).
UNIT_SRC := $(wildcard tests/unit/*/test_*.c)
UNIT_BIN := $(patsubst tests/unit/%.c,$(B)/unit/%,$(UNIT_SRC))

# Tests of whatever drives workers start this one, which needs neither MPI nor weights (its environment: see its top).
FAKE_WORKER := $(B)/fake/fake_worker
$(FAKE_WORKER): $(B)/obj/tests/fake/fake_worker.o $(B)/libapi.a
	$(call say,LD,$@)
	$(Q)mkdir -p $(@D) && $(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ $(EXT_api) $(LDLIBS)

define UNIT_RULE
$(B)/unit/$(1)/%: $(B)/obj/tests/unit/$(1)/%.o $(call objs,$(filter-out tests/unit/$(1)/test_%.c,$(wildcard tests/unit/$(1)/*.c))) $(call libs_of,$(1)) $(if $(filter api,$(1)),$(B)/libapi.a) $(if $(filter daemon cli,$(1)),| $(FAKE_WORKER))
	$$(call say,LD,$$@)
	$(Q)mkdir -p $$(@D) && $(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $$@ $$^ -lcmocka $(EXT_$(1)) $(LDLIBS)
endef
$(foreach d,$(DIRS),$(eval $(call UNIT_RULE,$(d))))

-include $(shell find $(B)/obj -name '*.d' 2>/dev/null)
