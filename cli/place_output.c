/* Files that appear whole or not at all. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/place.h"

/* Beside the file, so that the rename stays within one file system; with the mode that a new file
 * would have. */
static int open_temporary(const char *path, struct place_output *o, struct mt_err *reterr)
{
    mode_t mask = umask(0);
    int fd;

    umask(mask);
    if (asprintf(&o->temporary, "%s.XXXXXX", path) < 0) {
        o->temporary = NULL;
        return mt_error(reterr, MT_ENOMEM, "out of memory");
    }
    fd = mkstemp(o->temporary);
    if (fd >= 0 && !fchmod(fd, 0666 & ~mask))
        o->file = fdopen(fd, "w");
    if (o->file)
        return 0;
    mt_error(reterr, MT_EIO, "%s: cannot write: %s", path, strerror(errno));
    if (fd >= 0) {
        close(fd);
        unlink(o->temporary);
    }
    free(o->temporary);
    o->temporary = NULL;
    return MT_EIO;
}

int place_output_open(const char *path, struct place_output *ret, struct mt_err *reterr)
{
    struct place_output o = {.path = strdup(path)};
    struct stat st;
    int rc = 0;

    if (!o.path)
        return mt_error(reterr, MT_ENOMEM, "out of memory");
    if (!stat(path, &st) && S_ISDIR(st.st_mode)) {
        rc = mt_error(reterr, MT_EINVAL, "%s: expected a file to write, found a directory", path);
    } else if (!stat(path, &st) && !S_ISREG(st.st_mode)) {
        o.file = fopen(path, "w");
        if (!o.file)
            rc = mt_error(reterr, MT_EIO, "%s: cannot write: %s", path, strerror(errno));
    } else {
        rc = open_temporary(path, &o, reterr);
    }
    if (rc)
        free(o.path);
    else
        *ret = o;
    return rc;
}

int place_output_commit(struct place_output *o, struct mt_err *reterr)
{
    bool good = !fflush(o->file) && !ferror(o->file);

    if (good && o->temporary)
        good = !fsync(fileno(o->file)) && !rename(o->temporary, o->path);
    if (!good)
        return mt_error(reterr, MT_EIO, "%s: cannot write: %s", o->path, strerror(errno));
    free(o->temporary);
    o->temporary = NULL;
    return 0;
}

void place_output_drop(struct place_output *o)
{
    if (o->file)
        fclose(o->file);
    if (o->temporary)
        unlink(o->temporary);
    free(o->temporary);
    free(o->path);
    memset(o, 0, sizeof *o);
}
