/* Any bytes as the body of a completions call and of a chat call. What is taken must keep the
 * limits that the routes and the engine trust. */
#include "daemon/params.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct limits LIMITS = {.prompts = 8,
                                     .choices = 4,
                                     .sequences = 16,
                                     .stops = 4,
                                     .stop_bytes = 32,
                                     .logprobs = 20,
                                     .stop_tokens = 8,
                                     .messages = 8,
                                     .json_depth = 16};

static void require(bool holds)
{
    if (!holds)
        __builtin_trap();
}

static void check_taken(const struct call *c)
{
    const struct request_params *p = &c->params;

    require(c->chat ? c->n_messages >= 1 && c->n_messages <= 8
                    : c->n_prompts >= 1 && c->n_prompts <= 8);
    require(p->n >= 1 && p->n <= 4 && c->n_prompts * p->n <= 16);
    require(p->temperature >= 0 && p->temperature <= 2 && p->top_p > 0 && p->top_p <= 1);
    require(p->min_p >= 0 && p->min_p <= 1 && p->top_k >= 0);
    require(p->n_logprobs >= -1 && p->n_logprobs <= 20);
    require(c->n_stops <= 4 && p->n_stop_tokens <= REQUEST_MAX_STOP_TOKENS);
    require(!c->has_max_tokens || p->max_tokens || c->echo);
    for (size_t i = 0; i < c->n_stops; i++)
        require(c->stops[i].len >= 1 && c->stops[i].len <= 32);
    for (size_t i = 0; i < c->n_prompts; i++)
        for (size_t k = 0; k < c->prompts[i].n_ids; k++)
            require(c->prompts[i].ids[k] >= 0);
    for (size_t i = 0; i < c->n_messages; i++)
        require(c->messages[i].role && c->messages[i].content);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    for (int chat = 0; chat < 2; chat++) {
        struct problem problem = {0};
        struct call call = {0};

        if (call_parse(data, size, chat, &LIMITS, &call, &problem))
            check_taken(&call);
        else
            require(problem.status >= 400 && *problem.message);
        call_done(&call);
    }
    return 0;
}
