/* An engine without a model, for the routes: a thread that gives every running request one token of
 * a fixed text a tick, so that what an answer must be is known beforehand. Token ids are bytes
 * (fake_tokenizer). */
#ifndef MT_TESTS_FAKE_BACKEND_H
#define MT_TESTS_FAKE_BACKEND_H

#include "daemon/routes.h"
#include "daemon/tokenizer.h"

#define FAKE_POSITIONS 4096 /* the longest sequence */

/* What every choice says, again and again: choice c begins at byte c. Two and three byte characters
 * are in it. */
#define FAKE_TEXT "ab c\xc3\xa9 d\xe2\x82\xac ef\n"

struct fake_backend;

struct fake_backend *fake_backend_new(void);
void fake_backend_free(struct fake_backend *f); /* all requests must have ended */
struct backend fake_backend_ops(struct fake_backend *f);

void fake_backend_state(struct fake_backend *f, enum engine_state state, bool have_facts);
void fake_backend_hold(struct fake_backend *f, bool hold); /* no tokens while it is */
void fake_backend_refuse(struct fake_backend *f, int status,
                         int after); /* submissions, after so many more */
void fake_backend_fail(struct fake_backend *f, int status,
                       unsigned tokens); /* requests, after so many tokens */
unsigned fake_backend_running(struct fake_backend *f);
unsigned fake_backend_cancelled(struct fake_backend *f); /* requests ended by cancel */
void fake_backend_await_idle(struct fake_backend *f);

/* A tokenizer whose token ids 0..255 are the bytes, and 256 is the special token <|end|>. */
struct tokenizer *fake_tokenizer(void);

#endif
