/* Cluster files, and names of presets: any bytes are refused or give a sound cluster. */
#include <stdlib.h>
#include <string.h>

#include "placement/cluster.h"
#include "placement/preset.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds)
{
    if (!holds)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cluster c;
    struct preset_rates rates;
    struct mt_err err;
    char spec[64];

    for (int known = 0; known < 2; known++)
        if (!cluster_parse((const char *)data, size, "fuzz",
                           known ? cluster_known_model(26, 64, 6) : NULL, 64, 0, &c, &err))
            require(!cluster_check(&c, &err));
    if (size >= sizeof spec)
        return 0;
    memcpy(spec, data, size);
    spec[size] = 0;
    if (!preset_read(spec, &c, &rates, &err))
        require(c.ranks >= 1 && c.ranks <= PLAN_MAX_RANKS && c.ranks % c.nodes == 0);
    return 0;
}
