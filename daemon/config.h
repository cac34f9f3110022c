/* The daemon's options. One table (config.c) makes the flags, the file's keys, --help and the
 * manual page. */
#ifndef MT_DAEMON_CONFIG_H
#define MT_DAEMON_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "api/option.h"
#include "api/status.h"

/* Numbers as api/option.h stores them: sizes in bytes, durations in milliseconds. Texts are owned.
 */
struct config {
    char *model, *weights, *model_config, *served_name;
    char *host, *unix_path;
    int64_t port;

    int64_t ranks, threads;
    int numerics; /* index into CONFIG_NUMERICS */
    char *isa, *placement, *worker, *mpirun;
    int64_t spare_slots, kv_memory, step_tokens, max_seqs;
    int64_t start_deadline, silence_deadline, step_deadline, relaunch_min, relaunch_max;
    int64_t recovery_deadline, max_request_deaths, priority_wait;

    int64_t max_queued_requests, max_queued_tokens, request_deadline, drain_deadline;

    int64_t http_threads, max_connections, max_body, max_header, max_uri;
    int64_t receive_deadline, stall_deadline;
    int64_t max_prompts, max_choices, max_sequences, max_stops, max_stop_bytes, max_logprobs;
    int64_t max_messages, max_json_depth;

    char *config_file;
    int log_level;
    bool help, version, manual;
};

extern const char *const CONFIG_NUMERICS[];

/* Defaults, then --config-file, then the flags; then what can only be checked together. *config
 * needs config_done after success. */
int config_read(int argc, char *const *argv, struct config *config, struct mt_err *reterr);
void config_done(struct config *config);

void config_help(FILE *out);
void config_manual(FILE *out); /* moetunerd(8), man(7) source */

#endif
