/* moetuner place import and export: what SGLang and TensorRT-LLM record, and take at start. */
#include "placement/foreign.h"

#include <stdlib.h>
#include <string.h>

#include "api/file.h"
#include "cli/place.h"

enum format { FORMAT_SGLANG, FORMAT_TRTLLM };
enum what { WHAT_LOADS, WHAT_PLACEMENT };
static const char *const FORMATS[] = {"sglang", "trtllm", NULL};
static const char *const WHATS[] = {"loads", "placement", NULL};

struct config {
    struct place_input in;
    char *input, *placement, *output;
    int64_t topk, ranks, dense, slots;
    int format, what;
    bool help;
};

#define AT(field) offsetof(struct config, field)
#define ROW_FORMAT \
    { \
        "format", OPTION_CHOICE, AT(format), "sglang", 0, 0, FORMATS, NULL, "Files", \
            "Whose files they are." \
    }
#define ROW_OUTPUT(help) \
    { \
        "output", OPTION_TEXT, AT(output), NULL, 0, 0, NULL, "FILE", "Files", help \
    }

static const struct option IMPORT_OPTIONS[] = {
    ROW_FORMAT,
    {"input", OPTION_TEXT, AT(input), NULL, 0, 0, NULL, "PATH", "Files",
     "Loads of sglang: the JSON with logical_count. Loads of trtllm: the folder with "
     "meta_info.json. A placement: the file that `export` would write."},
    ROW_OUTPUT("Our loads or placement (also: -o FILE)."),
    {"what", OPTION_CHOICE, AT(what), "loads", 0, 0, WHATS, NULL, "Files", "What to read."},
    {"topk", OPTION_INT, AT(topk), "0", 0, TRACE_MAX_TOPK, NULL, "K", "What the file lacks",
     "Experts that a token chooses; needed for loads of sglang."},
    {"ranks", OPTION_INT, AT(ranks), "0", 0, PLAN_MAX_RANKS, NULL, "N", "What the file lacks",
     "Ranks of the placement; needed for it."},
    {"dense", OPTION_INT, AT(dense), "0", 0, PLAN_MAX_LAYERS, NULL, "N", "What the file lacks",
     "Layers before the first MoE layer; for a placement of sglang."},
    PLACE_ROW_HELP(struct config),
    {0},
};

static const struct option EXPORT_OPTIONS[] = {
    ROW_FORMAT,
    {"placement", OPTION_TEXT, AT(placement), NULL, 0, 0, NULL, "P.json", "Files", "Ours."},
    PLACE_ROW_TRACE(struct config),
    ROW_OUTPUT("The file for --init-expert-location (sglang) or for moe_config.load_balancer "
               "(trtllm) (also: -o FILE)."),
    {"slots", OPTION_INT, AT(slots), "0", 0, PLACE_MAX_EXPERTS, NULL, "N", "What the file needs",
     "Slots of every rank; 0: the fewest that hold the placement."},
    {"dense", OPTION_INT, AT(dense), "0", 0, PLAN_MAX_LAYERS, NULL, "N", "What the file needs",
     "Layers of the model before the first MoE layer."},
    PLACE_ROW_HELP(struct config),
    {0},
};

/* ---- import ---- */

static int import_loads(const struct config *c, struct place_output *o, struct mt_err *reterr)
{
    struct loads loads;
    uint32_t dense;
    int rc;

    if (c->format == FORMAT_SGLANG && !c->topk)
        return mt_error(reterr, MT_EINVAL, "expected --topk, found none");
    if (c->format == FORMAT_SGLANG)
        rc = foreign_read_sglang(c->input, (uint32_t)c->topk, &loads, &dense, reterr);
    else
        rc = foreign_read_trtllm(c->input, &loads, &dense, reterr);
    if (rc)
        return rc;
    rc = loads_write(o->file, &loads, reterr);
    if (!rc)
        rc = place_output_commit(o, reterr);
    if (!rc)
        printf("loads of %u layers of %u experts, top-%u, after %u dense layers\n", loads.layers,
               loads.experts, loads.topk, dense);
    loads_done(&loads);
    return rc;
}

static int import_plan(const struct config *c, struct place_output *o, struct mt_err *reterr)
{
    uint32_t ranks = (uint32_t)c->ranks, dense = (uint32_t)c->dense;
    struct plan plan;
    size_t len;
    char *bytes;
    int rc;

    if (!ranks)
        return mt_error(reterr, MT_EINVAL, "expected --ranks, found none");
    rc = file_read(c->input, PLAN_MAX_FILE, &bytes, &len, reterr);
    if (rc)
        return rc;
    rc = c->format == FORMAT_SGLANG
             ? foreign_parse_sglang_map(bytes, len, c->input, ranks, dense, &plan, reterr)
             : foreign_parse_trtllm_map(bytes, len, c->input, ranks, &plan, &dense, reterr);
    free(bytes);
    if (rc)
        return rc;
    rc = plan_write(o->file, &plan, NULL, reterr);
    if (!rc)
        rc = place_output_commit(o, reterr);
    if (!rc)
        printf("placement of %u layers of %u experts on %u ranks, after %u dense layers\n",
               plan.layers, plan.experts, plan.ranks, dense);
    plan_done(&plan);
    return rc;
}

static int import(const void *config, const struct place_args *args, int stop_fd,
                  struct mt_err *reterr)
{
    const struct config *c = config;
    struct place_output o = {0};
    int rc = place_need(c->input, "input", reterr);

    (void)args;
    (void)stop_fd;
    if (!rc)
        rc = place_need(c->output, "output", reterr);
    if (!rc)
        rc = place_output_open(c->output, &o, reterr);
    if (!rc)
        rc = c->what == WHAT_LOADS ? import_loads(c, &o, reterr) : import_plan(c, &o, reterr);
    place_output_drop(&o);
    return rc;
}

const struct place_command PLACE_IMPORT = {
    .usage = "--format sglang|trtllm --input PATH -o FILE [OPTION...]",
    .about = "Reads the expert counts that another system records, as loads for --trace; or "
             "a placement of\nits.",
    .options = IMPORT_OPTIONS,
    .config_size = sizeof(struct config),
    .help_offset = offsetof(struct config, help),
    .run = import,
};

/* ---- export ---- */

/* Loads of the first trace, which say what may fill slots that the plan leaves empty. */
static int read_loads(const struct place_input *in, const struct place_args *args,
                      const struct plan *plan, struct place_set *s, struct mt_err *reterr)
{
    int rc;

    if (!args->traces)
        return 0;
    rc = place_set_read(in, args->trace, args->traces, 0, s, reterr);
    return rc ? rc : plan_check(plan, s->layers, s->experts, plan->ranks, reterr);
}

static void print_report(const struct config *c, const struct foreign_report *r)
{
    printf("%u slots a rank, %u in all", r->slots, r->physical);
    if (c->format == FORMAT_SGLANG)
        printf(": start with --ep-num-redundant-experts %u", r->extra);
    printf("\n");
    if (r->repeated || r->added)
        printf("%llu empty slots repeat what their rank holds, %llu hold copies that the placement "
               "does not have\n",
               (unsigned long long)r->repeated, (unsigned long long)r->added);
}

static int write_foreign(const struct config *c, const struct plan *plan, const double *load,
                         struct mt_err *reterr)
{
    const struct foreign_options how = {
        .slots = (uint32_t)c->slots, .dense = (uint32_t)c->dense, .load = load};
    struct place_output o = {0};
    struct foreign_report r;
    int rc = place_output_open(c->output, &o, reterr);

    if (rc)
        return rc;
    rc = c->format == FORMAT_SGLANG ? foreign_write_sglang(o.file, plan, &how, &r, reterr)
                                    : foreign_write_trtllm(o.file, plan, &how, &r, reterr);
    if (!rc)
        rc = place_output_commit(&o, reterr);
    if (!rc)
        print_report(c, &r);
    place_output_drop(&o);
    return rc;
}

/* DeepSeek-V3 and R1 have three dense layers before these, and their files count them. */
static void warn_of_dense(const struct config *c, const struct plan *plan)
{
    if (plan->layers == 58 && plan->experts == 256 && !c->dense)
        fputs("moetuner place export: 58 layers of 256 experts look like DeepSeek-V3's, which "
              "follow 3 dense layers: --dense 3 counts them\n",
              stderr);
}

static int export(const void *config, const struct place_args *args, int stop_fd,
                  struct mt_err *reterr)
{
    const struct config *c = config;
    struct place_set *s = calloc(1, sizeof *s);
    struct plan plan = {0};
    int rc = s ? place_need(c->placement, "placement", reterr)
               : mt_error(reterr, MT_ENOMEM, "out of memory");

    (void)stop_fd;
    if (!rc)
        rc = place_need(c->output, "output", reterr);
    if (!rc)
        rc = plan_read(c->placement, &plan, reterr);
    if (!rc) {
        warn_of_dense(c, &plan);
        rc = read_loads(&c->in, args, &plan, s, reterr);
    }
    if (!rc)
        rc = write_foreign(c, &plan, s->sources ? s->source[0].load : NULL, reterr);
    plan_done(&plan);
    if (s)
        place_set_done(s);
    free(s);
    return rc;
}

const struct place_command PLACE_EXPORT = {
    .usage = "--format sglang|trtllm --placement P.json -o FILE [OPTION...]",
    .about = "Writes a placement as another system takes it at start. --trace tells which "
             "experts are busy,\nfor slots that the placement leaves empty.",
    .options = EXPORT_OPTIONS,
    .config_size = sizeof(struct config),
    .help_offset = offsetof(struct config, help),
    .run = export,
};
