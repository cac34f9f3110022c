/* A ticket turns the batcher's events into a request's output: text, offsets, logprobs, ends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/ticket.h"

#define EOS 9

static const char *const words[] = {"a", "b", "c", "\xc3", "\xa9", "stop"};

static const uint8_t *word_bytes(const void *user, int32_t token, size_t *ret_len)
{
    (void)user;
    if (token < 0 || token > 5)
        return NULL;
    *ret_len = strlen(words[token]);
    return (const uint8_t *)words[token];
}

static const struct textout_vocab vocab = {NULL, word_bytes};
static const int32_t eos = EOS;

struct world {
    struct metrics *metrics;
    struct request *request;
    struct ticket *ticket;
};

static const struct request_params plain = {
    .max_tokens = 10, .top_p = 1, .n = 1, .n_logprobs = -1, .has_seed = true, .seed = 77};

static void set_stop(struct request_params *p, const char *text)
{
    p->stops[p->n_stops].text = strdup(text);
    p->stops[p->n_stops++].len = strlen(text);
}

static struct world begin(const struct request_params *p)
{
    struct world w = {.metrics = metrics_new()};
    int32_t *prompt = calloc(4, sizeof(*prompt));
    int i;

    assert_true(w.metrics && prompt);
    for (i = 0; i < 4; i++)
        prompt[i] = i;
    assert_int_equal(request_new("cmpl", p, prompt, 4, &w.request, NULL), 0);
    assert_int_equal(ticket_new(w.request, w.metrics, 1000, &w.ticket, NULL), 0);
    ticket_start(w.ticket, &vocab, &eos, 1, 2000);
    return w;
}

static void end(struct world *w)
{
    ticket_free(w->ticket);
    request_unref(w->request);
    metrics_free(w->metrics);
}

static void push(struct world *w, uint32_t choice, int32_t token, bool last)
{
    struct batcher_event e = {.user = &w->ticket->choices[choice], .token = token, .last = last};

    assert_int_equal(ticket_event(&e, 3000), 0);
}

static void assert_text(const struct choice *c, const char *text)
{
    assert_int_equal(c->text.len, strlen(text));
    assert_memory_equal(c->text.data, text, strlen(text));
}

/* A stop string over three tokens: none of it shown, its tokens' offsets at the end of the text. */
static void test_stop_string(void **state)
{
    struct request_params p = plain;
    struct world w;
    struct choice *c;

    (void)state;
    set_stop(&p, "bca");
    w = begin(&p);
    c = w.request->choices;
    push(&w, 0, 0, false);
    assert_text(c, "a");
    push(&w, 0, 1, false);
    push(&w, 0, 2, false);
    assert_text(c, "a");
    assert_int_equal(c->tokens[2].text_at, 2); /* where it will be, if it is ever shown */
    assert_false(w.ticket->done);
    push(&w, 0, 0, false);
    assert_true(w.ticket->done && w.request->done);
    assert_text(c, "a");
    assert_int_equal(c->finish, FINISH_STOP);
    assert_int_equal(c->n_tokens, 4);
    assert_int_equal(c->tokens[0].text_at, 0);
    assert_int_equal(c->tokens[1].text_at, 1);
    assert_int_equal(c->tokens[2].text_at, 1);
    assert_int_equal(c->tokens[3].text_at, 1);
    end(&w);
}

/* The last token shows what was held back, an unfinished character as U+FFFD. */
static void test_length(void **state)
{
    struct request_params p = plain;
    struct world w;

    (void)state;
    set_stop(&p, "bca");
    w = begin(&p);
    push(&w, 0, 1, false);
    push(&w, 0, 3, true);
    assert_text(w.request->choices, "b\xef\xbf\xbd");
    assert_int_equal(w.request->choices[0].finish, FINISH_LENGTH);
    assert_int_equal(w.request->done_us, 3000);
    end(&w);
}

/* End of sequence is no output; the other choice goes on. */
static void test_eos_and_choices(void **state)
{
    struct request_params p = plain;
    struct world w;

    (void)state;
    p.n = 2;
    w = begin(&p);
    push(&w, 1, 3, false);
    push(&w, 0, 0, false);
    push(&w, 1, 4, false);
    push(&w, 1, EOS, false);
    assert_int_equal(w.request->choices[1].finish, FINISH_STOP);
    assert_int_equal(w.request->choices[1].n_tokens, 2);
    assert_text(&w.request->choices[1], "\xc3\xa9");
    assert_int_equal(w.request->n_finished, 1);
    assert_false(w.ticket->done);
    push(&w, 0, EOS, true); /* also where it is the last one anyway */
    assert_int_equal(w.request->choices[0].finish, FINISH_STOP);
    assert_true(w.ticket->done);
    assert_int_equal(w.ticket->n_output, 3);
    end(&w);
}

static void test_logprobs(void **state)
{
    struct wire_logprob entries[] = {{1, -1}, {5, -2}, {6, -3}, {2, -4},  {7, -5},  {8, -6},
                                     {3, -7}, {5, -8}, {6, -9}, {0, -10}, {7, -11}, {8, -12}};
    struct request_params p = plain;
    struct batcher_event e = {
        .token = -1, .n_top = 2, .prompt_at = 1, .n_prompt = 2, .prompt = entries};
    struct output_token *t;
    struct world w;

    (void)state;
    p.n_logprobs = 2;
    p.prompt_logprobs = true;
    w = begin(&p);
    assert_int_equal(w.request->n_prompt_tokens, 1);
    e.user = &w.ticket->choices[0];
    assert_int_equal(ticket_event(&e, 3000), 0);
    assert_int_equal(w.request->n_prompt_tokens, 3);
    e = (struct batcher_event){.user = e.user,
                               .token = 0,
                               .n_top = 2,
                               .prompt_at = 3,
                               .n_prompt = 1,
                               .prompt = entries + 6,
                               .logprob = entries + 9};
    assert_int_equal(ticket_event(&e, 3000), 0);
    t = w.request->prompt_tokens;
    assert_int_equal(w.request->n_prompt_tokens, 4);
    assert_int_equal(w.request->n_prompt_tops, 6);
    assert_true(t[2].logprob == -4 && t[2].token == 2);
    assert_int_equal(w.request->prompt_tops[t[2].top_at + 1].token, 8);
    assert_true(w.request->prompt_tops[t[3].top_at].logprob == -8);
    t = w.request->choices[0].tokens;
    assert_true(t[0].logprob == -10 && t[0].n_top == 2);
    assert_true(w.request->choices[0].tops[t[0].top_at + 1].logprob == -12);
    end(&w);
}

/* What a ticket asks of the batcher. */
static void test_spec(void **state)
{
    struct request_params p = plain;
    struct batcher_spec spec;
    struct world w;

    (void)state;
    p.n = 2;
    p.temperature = 0.5f;
    p.top_k = 3;
    p.prompt_logprobs = true;
    w = begin(&p);
    w.ticket->order = 42;
    assert_true(ticket_spec(w.ticket, 1, 6, 3000, &spec));
    assert_ptr_equal(spec.user, &w.ticket->choices[1]);
    assert_int_equal(spec.new_tokens, 6);
    assert_int_equal(spec.order, 42);
    assert_false(spec.prompt_logprobs); /* once is enough */
    assert_int_equal(spec.sampling.choice, 1);
    assert_true(spec.sampling.seed == 77 && spec.sampling.temperature == 0.5f);
    assert_int_equal(spec.sampling.top_k, 3);
    assert_true(ticket_spec(w.ticket, 0, 0, 3000, &spec));
    assert_true(spec.prompt_logprobs);
    assert_false(ticket_spec(w.ticket, 1, 0, 3000, &spec));
    assert_int_equal(w.request->choices[1].finish, FINISH_LENGTH);
    end(&w);
}

/* An end from outside keeps what is there and what has finished. */
static void test_end(void **state)
{
    struct request_params p = plain;
    struct mt_err err;
    struct world w;

    (void)state;
    p.n = 2;
    w = begin(&p);
    push(&w, 0, 0, false);
    push(&w, 0, EOS, false);
    push(&w, 1, 1, false);
    mt_error(&err, MT_ETIMEOUT, "too late");
    ticket_end(w.ticket, FINISH_ERROR, &err, 4000);
    assert_true(w.request->done);
    assert_int_equal(w.request->choices[0].finish, FINISH_STOP);
    assert_int_equal(w.request->choices[1].finish, FINISH_ERROR);
    assert_text(&w.request->choices[1], "b");
    assert_string_equal(w.request->err.text, "too late");
    end(&w);
    w = begin(&plain); /* what is whole, but not told yet, stays an answer */
    push(&w, 0, EOS, false);
    assert_true(w.request->done);
    ticket_end(w.ticket, FINISH_ERROR, &err, 4000);
    assert_int_equal(w.request->err.status, 0);
    assert_int_equal(w.request->choices[0].finish, FINISH_STOP);
    end(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stop_string),
        cmocka_unit_test(test_length),
        cmocka_unit_test(test_eos_and_choices),
        cmocka_unit_test(test_logprobs),
        cmocka_unit_test(test_spec),
        cmocka_unit_test(test_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
