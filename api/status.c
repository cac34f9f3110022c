#include "api/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Texts quote what files and peers say: whatever that is, the text stays one line. */
static void keep_one_line(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            *text = '?';
}

int mt_error(struct mt_err *reterr, int status, const char *format, ...)
{
    if (reterr) {
        va_list ap;
        reterr->status = status;
        va_start(ap, format);
        vsnprintf(reterr->text, sizeof reterr->text, format, ap);
        va_end(ap);
        keep_one_line(reterr->text);
    }
    return status;
}

int mt_error_prefix(struct mt_err *reterr, const char *format, ...)
{
    char old[MT_ERR_TEXT], prefix[MT_ERR_TEXT];
    va_list ap;

    if (!reterr)
        return MT_EINTERNAL;
    va_start(ap, format);
    vsnprintf(prefix, sizeof prefix, format, ap);
    va_end(ap);
    memcpy(old, reterr->text, sizeof old);
    snprintf(reterr->text, sizeof reterr->text, "%.200s: %.300s", prefix, old);
    return reterr->status;
}

const char *mt_status_name(int status)
{
    switch (status) {
    case MT_OK: return "ok";
    case MT_EINVAL: return "invalid input";
    case MT_ENOMEM: return "out of memory";
    case MT_EIO: return "input/output error";
    case MT_ELIMIT: return "limit reached";
    case MT_EUNSUPPORTED: return "not supported";
    case MT_ENOTFOUND: return "not found";
    case MT_ETIMEOUT: return "timed out";
    case MT_ECLOSED: return "closed";
    case MT_EPROTO: return "protocol error";
    default: return "internal error";
    }
}
