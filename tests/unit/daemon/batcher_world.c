#include "batcher_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

uint64_t world_rng;

uint32_t world_rnd(uint32_t n) /* 0 .. n-1 */
{
    world_rng ^= world_rng << 13;
    world_rng ^= world_rng >> 7;
    world_rng ^= world_rng << 17;
    return (uint32_t)((world_rng >> 11) % n);
}

bool world_is_stop(int32_t token)
{
    return token % 19 == 3;
}

void world_finish(struct flow *f)
{
    assert_false(f->done);
    f->done = true;
    batcher_end(f->world->batcher, f->seq);
    f->load->n_done++;
    f->world->n_done++;
}

static void check_entry(const struct flow *f, uint32_t at, int32_t token, uint32_t n_top,
                        const struct wire_logprob *entry)
{
    const struct load *l = f->load;
    int32_t history[MAX_PROMPT + MAX_NEW];
    uint32_t i;

    memcpy(history, l->prompt, l->n_prompt * sizeof(*history));
    memcpy(history + l->n_prompt, f->expect, f->n_expect * sizeof(*history));
    assert_int_equal(n_top, l->n_logprobs > 0 ? l->n_logprobs : 0);
    assert_int_equal(entry->token, token);
    for (i = 0; i <= n_top; i++)
        assert_true(entry[i].logprob ==
                    ranks_logprob(l->seed, f->choice, history, at, entry[i].token));
}

static void on_event(void *user, const struct batcher_event *e)
{
    struct flow *f = e->user;
    struct load *l = f->load;
    uint32_t i, n;

    assert_ptr_equal(user, f->world);
    assert_false(f->done);
    assert_ptr_equal(e->seq, f->seq);
    for (i = 0; i < e->n_prompt; i++) {
        assert_true(l->prompt_logprobs && f->choice == 0);
        assert_int_equal(e->prompt_at + i, f->n_prompt_got + 1);
        f->n_prompt_got++;
        check_entry(f, e->prompt_at + i, l->prompt[e->prompt_at + i], e->n_top,
                    e->prompt + i * (1 + e->n_top));
    }
    if (e->token >= 0) {
        assert_true(f->n_got < f->n_expect);
        assert_int_equal(e->token, f->expect[f->n_got]);
        if (e->logprob)
            check_entry(f, l->n_prompt + f->n_got, e->token, e->n_top, e->logprob);
        assert_int_equal(!!e->logprob, l->n_logprobs >= 0 || (l->prompt_logprobs && !f->choice));
        f->n_got++;
        batcher_emitted(e->seq, &n);
        assert_int_equal(n, f->n_got);
    }
    assert_int_equal(e->last, f->n_got == l->new_tokens &&
                                  (l->new_tokens || f->n_prompt_got == l->n_prompt - 1));
    if (e->last || (e->token >= 0 && world_is_stop(e->token))) {
        assert_int_equal(f->n_got, f->n_expect);
        assert_int_equal(f->n_prompt_got,
                         l->prompt_logprobs && f->choice == 0 ? l->n_prompt - 1 : 0);
        world_finish(f);
    }
}

void world_foretell(struct world *w, struct load *l)
{
    int32_t history[MAX_PROMPT + MAX_NEW];
    struct flow *f;
    uint32_t c, i;

    memcpy(history, l->prompt, l->n_prompt * sizeof(*history));
    for (c = 0; c < l->n_choices; c++) {
        f = &l->flows[c];
        *f = (struct flow){.world = w, .load = l, .choice = c};
        while (f->n_expect < l->new_tokens) {
            i = l->n_prompt + f->n_expect;
            history[i] = f->expect[f->n_expect] = ranks_next(l->seed, c, history, i);
            if (world_is_stop(f->expect[f->n_expect++]))
                break;
        }
    }
}

void world_make_load(struct world *w, struct load *l)
{
    uint32_t i, max_tokens, same;

    l->n_prompt = 1 + world_rnd(world_rnd(2) ? 8 : MAX_PROMPT);
    l->seed = world_rnd(1000);
    l->n_choices = 1 + (world_rnd(3) ? 0 : world_rnd(MAX_CHOICES));
    l->n_logprobs = (int32_t)world_rnd(4) - 1;
    l->prompt_logprobs = world_rnd(4) == 0;
    l->order = world_rnd(3);
    same = world_rnd(3) ? world_rnd(l->n_prompt + 1) : 0; /* as far as others have begun, too */
    for (i = 0; i < l->n_prompt; i++)
        l->prompt[i] = i < same ? (int32_t)(i * 7 % FAKE_VOCAB) : (int32_t)world_rnd(FAKE_VOCAB);
    max_tokens =
        l->prompt_logprobs && l->n_prompt > 1 && world_rnd(3) == 0 ? 0 : 1 + world_rnd(MAX_NEW);
    if (!max_tokens)
        l->n_choices = 1;
    while (batcher_check(&w->shape, l->n_prompt, max_tokens, &l->new_tokens, NULL))
        l->n_prompt--;
    if (!l->new_tokens && l->n_prompt < 2)
        l->new_tokens = 1;
    assert_true(l->new_tokens <= MAX_NEW);
    world_foretell(w, l);
}

static struct batcher_spec spec_of(const struct load *l)
{
    return (struct batcher_spec){.prompt = l->prompt,
                                 .n_prompt = l->n_prompt,
                                 .new_tokens = l->new_tokens,
                                 .order = l->order,
                                 .n_logprobs = l->n_logprobs,
                                 .prompt_logprobs = l->prompt_logprobs};
}

bool world_room(const struct world *w, const struct load *l)
{
    const struct batcher_spec spec = spec_of(l);

    return batcher_room(w->batcher, &spec);
}

void world_add(struct world *w, struct load *l)
{
    struct batcher_spec spec = spec_of(l);
    struct sequence *sibling = NULL;
    uint32_t c;

    for (c = 0; c < l->n_choices; c++) {
        spec.prompt_logprobs = l->prompt_logprobs && c == 0;
        spec.sampling = (struct wire_admit){.seed = l->seed, .choice = c};
        spec.user = &l->flows[c];
        assert_int_equal(batcher_add(w->batcher, &spec, sibling, &l->flows[c].seq, NULL), 0);
        sibling = l->flows[c].seq;
    }
    l->added = true;
}

static void cancel_one(struct world *w)
{
    struct load *l = &w->loads[world_rnd(w->n_loads)];
    uint32_t c;

    if (!l->added || l->n_done == l->n_choices)
        return;
    for (c = 0; c < l->n_choices; c++)
        if (!l->flows[c].done)
            world_finish(&l->flows[c]);
}

/* What has been counted holds at any time: nothing overcommitted. */
static void check_counts(const struct world *w)
{
    struct batcher_counts counts;

    batcher_count(w->batcher, &counts);
    assert_true(counts.blocks_held + counts.blocks_cached <= counts.blocks_total);
    assert_int_equal(batcher_unanswered(w->batcher) <= WIRE_MAX_AHEAD, 1);
}

/* The job is gone, at any moment; the next may have other pools, if they are large enough. */
static void die(struct world *w)
{
    uint32_t r;

    fake_ranks_free(w->ranks);
    if (world_rnd(2))
        batcher_stop(w->batcher);
    for (r = 0; r < w->shape.ranks; r++)
        w->shape.rank[r].kv_blocks += world_rnd(2);
    assert_int_equal(batcher_start(w->batcher, &w->shape, NULL), 0);
    assert_int_equal(batcher_unanswered(w->batcher), 0);
    w->ranks = fake_ranks_new(&w->shape);
    w->deaths++;
}

/* Every step feeds at least one token, so the bound on steps is a bound on starvation. Whoever is
 * preempted, or dies with the job, is fed anew. */
static uint64_t step_bound(const struct world *w)
{
    struct batcher_counts counts;
    uint64_t bound = 0;
    uint32_t i;

    for (i = 0; i < w->n_loads; i++)
        bound += (w->loads[i].n_prompt + w->loads[i].new_tokens + 2) * w->loads[i].n_choices;
    batcher_count(w->batcher, &counts);
    return bound * (1 + w->deaths) + counts.preemptions * (w->shape.max_positions + 2);
}

void world_run(struct world *w, bool cancels, bool deaths)
{
    struct batcher_counts counts;
    uint32_t flows = 0, i;
    bool built;

    for (i = 0; i < w->n_loads; i++)
        flows += w->loads[i].n_choices;
    while (w->n_done < flows) {
        while (w->next < w->n_loads && world_rnd(4)) {
            struct load *l = &w->loads[w->next];

            if (!world_room(w, l))
                break;
            world_add(w, l);
            w->next++;
        }
        if (cancels && world_rnd(20) == 0)
            cancel_one(w);
        if (deaths && world_rnd(60) == 0)
            die(w);
        if (world_rnd(3) || !batcher_unanswered(w->batcher)) {
            assert_int_equal(batcher_build(w->batcher, &w->step, &built, NULL), 0);
            if (built) {
                fake_ranks_step(w->ranks, &w->step);
                assert_true(++w->steps <= step_bound(w));
            }
        } else {
            assert_int_equal(
                batcher_take(w->batcher, fake_ranks_answer(w->ranks), on_event, w, NULL), 0);
        }
        check_counts(w);
    }
    while (batcher_unanswered(w->batcher))
        assert_int_equal(batcher_take(w->batcher, fake_ranks_answer(w->ranks), on_event, w, NULL),
                         0);
    batcher_count(w->batcher, &counts);
    assert_int_equal(counts.blocks_held, 0);
    assert_int_equal(counts.sequences, 0);
    assert_int_equal(counts.waiting, 0);
}
