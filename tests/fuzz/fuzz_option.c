/* Configuration files of any bytes: no crash, no leak, and every field within its row's bounds. */
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "api/option.h"

struct config {
    bool flag;
    int64_t count, size, wait;
    double ratio;
    char *text;
    int mode;
};

static const char *const MODES[] = {"a", "b", NULL};

#define AT(field) offsetof(struct config, field)

static const struct option TABLE[] = {
    {"f", OPTION_FLAG, AT(flag), "true", 0, 0, NULL, NULL, NULL, ""},
    {"i", OPTION_INT, AT(count), "3", -5, 10, NULL, NULL, NULL, ""},
    {"s", OPTION_SIZE, AT(size), "1K", 0, 1 << 30, NULL, NULL, NULL, ""},
    {"d", OPTION_DURATION, AT(wait), "1", 0, 0, NULL, NULL, NULL, ""},
    {"r", OPTION_REAL, AT(ratio), "0", -1, 1, NULL, NULL, NULL, ""},
    {"t", OPTION_TEXT, AT(text), NULL, 0, 0, NULL, NULL, NULL, ""},
    {"c", OPTION_CHOICE, AT(mode), "a", 0, 0, MODES, NULL, NULL, ""},
    {0},
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct config c;
    struct mt_err err;

    if (option_defaults(TABLE, &c, &err))
        abort();
    option_parse_file(TABLE, &c, (const char *)data, size, "fuzz", &err);
    if (c.count < -5 || c.count > 10 || c.size < 0 || c.size > 1 << 30 || c.wait < 0 ||
        !(fabs(c.ratio) <= 1) || c.mode < 0 || c.mode > 1)
        abort();
    option_done(TABLE, &c);
    return 0;
}
