/* A rank's control socket to the daemon, with a thread of its own that reads frames, answers for
 * the rank's life by heartbeats, and notices the daemon's end; so a main thread that is stuck in
 * MPI silences nothing. */
#ifndef MT_WORKER_LINK_H
#define MT_WORKER_LINK_H

#include <stdbool.h>
#include <stdint.h>

#include "api/status.h"
#include "api/wire.h"

struct link;

/* Dials "unix:PATH" or "tcp:HOST:PORT" and sends hello. */
int link_open(const char *address, uint64_t incarnation, const struct wire_hello *hello,
              struct link **ret, struct mt_err *reterr);
/* Starts the thread. lost is called on it, once, when the daemon is gone or breaks the protocol; it
 * should end the process. */
int link_start(struct link *l, void (*lost)(const struct mt_err *why), struct mt_err *reterr);
void link_close(struct link *l); /* stops the thread, closes; NULL allowed */

/* Sends one or more whole frames; waits for the socket. Any thread. */
int link_send(struct link *l, const struct buf *frames, struct mt_err *reterr);
/* Sends FAIL or LOG with this text. */
void link_say(struct link *l, enum wire_type type, int level, const char *text);

/* Takes the oldest frame received and not taken, if any; *ret_body is malloc'ed, the caller's to
 * free. WAKE frames are not queued. Main thread. */
bool link_take(struct link *l, struct wire_header *ret_header, uint8_t **ret_body);
/* Waits until a frame or a WAKE has come since the last wait, or timeout_ms (-1: for ever); false:
 * it was the time. Main thread. */
bool link_wait(struct link *l, int timeout_ms);

/* The main thread tells that it moves, and the step that it has finished; heartbeats carry both. */
void link_progress(struct link *l);
void link_step(struct link *l, uint64_t step);

#endif
