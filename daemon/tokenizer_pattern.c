/* The gate before PCRE2: patterns in tokenizer.json are written for Oniguruma (Ruby's syntax). What
 * both engines take alike passes unchanged; the rest is refused by name rather than read in another
 * way. */
#include <string.h>

#include "daemon/tokenizer_private.h"
#include "daemon/unicode_delta.h"
#include "daemon/utf8.h"

enum last { LAST_NOTHING, LAST_ATOM, LAST_QUANTIFIER };

struct scan {
    const char *text;
    size_t n, at;
    unsigned depth;
    bool caseless; /* inside (?i: ), which holds plain letters only */
    enum last last;
    struct pattern_facts facts;
    struct mt_err *err;
};

static int refuse(const struct scan *s, size_t at, const char *what)
{
    size_t n = s->n - at < 16 ? s->n - at : 16;

    return mt_error(s->err, MT_EUNSUPPORTED,
                    "split pattern: %s at offset %zu (\"%.*s\") is not supported", what, at, (int)n,
                    s->text + at);
}

/* Does the pattern name a character that stand-ins would take away, or one that they would add? */
static void note_literal(struct scan *s, uint32_t low, uint32_t high)
{
    size_t i;

    for (i = 0; i < unicode_delta_count; i++) {
        const struct unicode_delta *d = &unicode_delta[i];

        if ((low <= d->last && d->first <= high) || (low <= d->stand_in && d->stand_in <= high))
            s->facts.literal_delta = true;
    }
}

static bool is_category(const char *name, size_t n)
{
    static const char known[] =
        " L Lu Ll Lt Lm Lo M Mn Mc Me N Nd Nl No P Pc Pd Ps Pe Pi Pf Po S Sm Sc Sk So Z Zs Zl Zp ";
    const char *at = known;

    if (n < 1 || n > 2)
        return false;
    for (; *at; at++)
        if (at[0] == ' ' && !strncmp(at + 1, name, n) && at[1 + n] == ' ')
            return true;
    return false;
}

static bool is_punctuation(char c)
{
    return c && strchr("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ ", c);
}

/* A backslash at s->at. *ret_cp is the character that it stands for, or -1 for a class of
 * characters. */
static int scan_escape(struct scan *s, int32_t *ret_cp)
{
    size_t start = s->at;
    char c = start + 1 < s->n ? s->text[start + 1] : 0;
    const char *close;

    s->at += 2;
    if (is_punctuation(c)) {
        *ret_cp = (unsigned char)c;
        return 0;
    }
    if (c == 'r' || c == 'n' || c == 't' || c == 'f') {
        *ret_cp = c == 'r' ? '\r' : c == 'n' ? '\n' : c == 't' ? '\t' : '\f';
        return 0;
    }
    *ret_cp = -1;
    s->facts.classes = true;
    if (c == 's' || c == 'S' || c == 'd' || c == 'D')
        return 0;
    if ((c == 'p' || c == 'P') && s->at < s->n && s->text[s->at] == '{') {
        close = memchr(s->text + s->at, '}', s->n - s->at);
        if (close && is_category(s->text + s->at + 1, (size_t)(close - s->text) - s->at - 1)) {
            s->at = (size_t)(close - s->text) + 1;
            return 0;
        }
    }
    return refuse(s, start, "the escape");
}

static int scan_char(struct scan *s, int32_t *ret_cp)
{
    uint32_t cp;
    int len;

    if (s->text[s->at] == '\\')
        return scan_escape(s, ret_cp);
    len = utf8_next((const uint8_t *)s->text + s->at, s->n - s->at, &cp);
    if (len <= 0)
        return refuse(s, s->at, "what is not UTF-8");
    s->at += (size_t)len;
    *ret_cp = (int32_t)cp;
    return 0;
}

/* One member of a class, which may be a range. */
static int scan_member(struct scan *s)
{
    const char *p = s->text + s->at;
    size_t start = s->at, left = s->n - s->at;
    int32_t low = -1, high;
    bool dash = *p == '-';

    if (*p == '[' || (left > 1 && p[0] == '&' && p[1] == '&'))
        return refuse(s, start, "a class within a class");
    if (scan_char(s, &low))
        return MT_EUNSUPPORTED;
    high = low;
    if (s->at + 1 < s->n && s->text[s->at] == '-' && s->text[s->at + 1] != ']') {
        s->at++;
        if (low < 0 || dash || s->text[s->at] == '[' || scan_char(s, &high) || high < low)
            return refuse(s, start, "the range");
    }
    if (low >= 0)
        note_literal(s, (uint32_t)low, (uint32_t)high);
    return 0;
}

static int scan_class(struct scan *s)
{
    size_t start = s->at++;

    if (s->at < s->n && s->text[s->at] == '^')
        s->at++;
    if (s->at < s->n && s->text[s->at] == ']')
        return refuse(s, start, "an empty class");
    while (s->at < s->n && s->text[s->at] != ']')
        if (scan_member(s))
            return MT_EUNSUPPORTED;
    if (s->at == s->n)
        return refuse(s, start, "a class without end");
    s->at++;
    s->last = LAST_ATOM;
    return 0;
}

static int scan_open(struct scan *s)
{
    static const char *const kinds[] = {"(?i:", "(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>"};
    size_t i, len;

    s->depth++;
    s->last = LAST_NOTHING;
    for (i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        len = strlen(kinds[i]);
        if (s->n - s->at >= len && !memcmp(s->text + s->at, kinds[i], len)) {
            s->at += len;
            s->caseless = i == 0;
            return 0;
        }
    }
    if (s->n - s->at > 1 && (s->text[s->at + 1] == '?' || s->text[s->at + 1] == '*'))
        return refuse(s, s->at, "the group");
    s->at++;
    return 0;
}

/* {n}, {n,} or {n,m}. After it a ? or + would mean different things. */
static int scan_count(struct scan *s)
{
    size_t start = s->at++, digits = 0;
    unsigned commas = 0;

    for (; s->at < s->n && s->text[s->at] != '}'; s->at++) {
        if (s->text[s->at] == ',' && digits)
            commas++;
        else if (s->text[s->at] >= '0' && s->text[s->at] <= '9')
            digits++;
        else
            return refuse(s, start, "the brace");
    }
    if (s->at == s->n || !digits || commas > 1)
        return refuse(s, start, "the brace");
    s->at++;
    if (s->at < s->n && (s->text[s->at] == '?' || s->text[s->at] == '+'))
        return refuse(s, start, "a mark after a count");
    return 0;
}

static int scan_quantifier(struct scan *s)
{
    if (s->last != LAST_ATOM)
        return refuse(s, s->at, "the quantifier");
    s->last = LAST_QUANTIFIER;
    if (s->text[s->at] == '{')
        return scan_count(s);
    s->at++;
    if (s->at < s->n && (s->text[s->at] == '?' || s->text[s->at] == '+'))
        s->at++; /* lazy, possessive */
    return 0;
}

/* Without regard to case, Oniguruma also takes one character for two of these ("ss" for U+00DF),
 * which PCRE2 does not. */
static int scan_caseless(struct scan *s)
{
    static const char pairs[] = "ss ff fi fl st ";
    char two[3] = "", c = s->text[s->at];
    unsigned i;

    if (c == '|') {
        s->at++;
        return 0;
    }
    if (c == ')') {
        s->at++;
        s->depth--;
        s->caseless = false;
        s->last = LAST_ATOM;
        return 0;
    }
    if ((c | 0x20) < 'a' || (c | 0x20) > 'z') {
        if (c != '\'' && c != ' ')
            return refuse(s, s->at, "within (?i: ) what is no letter");
    }
    for (i = 0; i < 2 && s->at + i < s->n; i++)
        two[i] = (char)(s->text[s->at + i] | 0x20);
    if (two[1] && strstr(pairs, two))
        return refuse(s, s->at, "within (?i: ) the pair of letters");
    s->at++;
    return 0;
}

static int scan_one(struct scan *s)
{
    int32_t cp = -1;

    if (s->caseless)
        return scan_caseless(s);
    switch (s->text[s->at]) {
    case '(': return scan_open(s);
    case ')':
        if (!s->depth)
            return refuse(s, s->at, "a parenthesis too many");
        s->depth--;
        s->at++;
        s->last = LAST_ATOM;
        return 0;
    case '[': return scan_class(s);
    case '|':
        s->at++;
        s->last = LAST_NOTHING;
        return 0;
    case '?':
    case '*':
    case '+':
    case '{': return scan_quantifier(s);
    case '^':
    case '$': return refuse(s, s->at, "the anchor");
    default:
        if (scan_char(s, &cp))
            return MT_EUNSUPPORTED;
        if (cp >= 0)
            note_literal(s, (uint32_t)cp, (uint32_t)cp);
        s->last = LAST_ATOM;
        return 0;
    }
}

int pattern_check(const char *pattern, size_t n, struct pattern_facts *ret, struct mt_err *reterr)
{
    struct scan s = {.text = pattern, .n = n, .err = reterr};

    while (s.at < n)
        if (scan_one(&s))
            return MT_EUNSUPPORTED;
    if (s.depth)
        return refuse(&s, n, "a missing parenthesis");
    if (s.facts.classes && s.facts.literal_delta)
        return mt_error(reterr, MT_EUNSUPPORTED,
                        "split pattern: kinds of characters (\\p, \\s) beside characters that are "
                        "younger than Unicode 14");
    *ret = s.facts;
    return 0;
}
