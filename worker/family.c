#include "worker/family.h"

#include <stddef.h>
#include <string.h>

/* Every family, in the order in which messages list them. */
#define FAMILIES(ROW) ROW(mixtral)

#define ROW_ADDRESS(name) &family_##name,
#define ROW_TEXT(name) ", " #name

static const struct family *const ROWS[] = {FAMILIES(ROW_ADDRESS)};
static const char LIST[] = FAMILIES(ROW_TEXT);

const struct family *family_find(const char *model_type)
{
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++)
        if (!strcmp(ROWS[i]->model_type, model_type))
            return ROWS[i];
    return NULL;
}

const char *family_list(void)
{
    return LIST + 2;
}
