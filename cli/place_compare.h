/* moetuner place compare: what was found, for its table, its JSON and its chart. */
#ifndef MT_CLI_PLACE_COMPARE_H
#define MT_CLI_PLACE_COMPARE_H

#include "cli/place.h"

#define COMPARE_MAX_METHODS 32
#define COMPARE_MAX_TABLES 16

struct compare_row {
    const char *method;
    bool good;
    char reason[MT_ERR_TEXT];         /* why it has no figures */
    double objective, bound, seconds; /* on what it was fitted to */
    bool optimal;
    uint32_t seeds;
    char no_bound[160], note[256];
    struct score score[2]; /* on the rest, by enum score_evaluation; sampled: only with paths */
};

struct compare_table {
    uint32_t spare, rows;
    struct place_problem problem; /* what was scored; its traces belong to the set */
    struct compare_row base;      /* contiguous, whether it was asked for or not */
    struct compare_row row[COMPARE_MAX_METHODS];
    enum score_evaluation by; /* what decides: sampled where it can be */
};

/* Index of the row of least J; rows if there is none. */
uint32_t compare_best(const struct compare_table *t);
/* Whether it is the best, or level with it. */
bool compare_leads(const struct compare_table *t, uint32_t row);
static inline const struct score *compare_score(const struct compare_table *t,
                                                const struct compare_row *r)
{
    return &r->score[t->by];
}
/* Mean over scenarios of a phase, by their shares: seconds per token; 0 if there are none. */
double compare_phase(const struct compare_table *t, const struct compare_row *r,
                     enum place_phase phase);

/* A bar for each method, by the terms of its time, a panel for each table. */
void compare_chart(const struct compare_table *table, uint32_t tables, const char *title,
                   FILE *out);

#endif
