/* The chart of `moetuner place compare`: stacked bars as SVG. */
#include <math.h>

#include "cli/place_compare.h"

#define WIDTH 860
#define LEFT 150 /* names */
#define RIGHT 70 /* figures */
#define TOP 66   /* title and legend */
#define ROW 22
#define BAR 15
#define HEAD 26 /* of a panel */
#define FOOT 40 /* the axis */
#define TERMS 5

static const struct {
    const char *name, *colour;
} TERM[TERMS] = {{"dense", "#8c9bab"},
                 {"dispatch", "#2f7ebc"},
                 {"compute", "#e08a3c"},
                 {"combine", "#7dbce8"},
                 {"KV moves", "#a97fc4"}};

static void put_text(FILE *out, const char *text)
{
    for (; *text; text++)
        if (*text == '<')
            fputs("&lt;", out);
        else if (*text == '&')
            fputs("&amp;", out);
        else if ((unsigned char)*text >= ' ')
            fputc(*text, out);
}

static void term_values(const struct score *s, double ret[TERMS])
{
    ret[0] = s->terms.dense;
    ret[1] = s->terms.dispatch;
    ret[2] = s->terms.compute;
    ret[3] = s->terms.combine;
    ret[4] = s->kv_moves;
}

/* The longest bar, and 0 if nothing can be drawn. */
static double longest(const struct compare_table *table, uint32_t tables)
{
    double most = 0;

    for (uint32_t i = 0; i < tables; i++)
        for (uint32_t k = 0; k < table[i].rows; k++)
            if (table[i].row[k].good)
                most = fmax(most, compare_score(&table[i], &table[i].row[k])->j);
    return most;
}

/* 1, 2 or 5 times a power of ten, so that there are four to ten of them in `most`. */
static double tick(double most)
{
    double power = pow(10, floor(log10(most / 4)));

    if (most / (5 * power) >= 4)
        return 5 * power;
    return most / (2 * power) >= 4 ? 2 * power : power;
}

static void draw_legend(FILE *out)
{
    for (int i = 0; i < TERMS; i++) {
        int x = LEFT + 95 * i;

        fprintf(out,
                "<rect x=\"%d\" y=\"42\" width=\"12\" height=\"12\" fill=\"%s\"/>"
                "<text x=\"%d\" y=\"52\">%s</text>\n",
                x, TERM[i].colour, x + 17, TERM[i].name);
    }
}

static void draw_axis(FILE *out, double most, double scale, double top, double bottom)
{
    double step = tick(most);

    for (int i = 0; i * step <= most * 1.0001; i++) {
        double v = i * step, x = LEFT + v * scale;

        fprintf(out,
                "<line x1=\"%.1f\" y1=\"%.0f\" x2=\"%.1f\" y2=\"%.0f\" stroke=\"#e3e6ea\"/>"
                "<text x=\"%.1f\" y=\"%.0f\" text-anchor=\"middle\" fill=\"#5b6673\">%.4g</text>\n",
                x, top, x, bottom, x, bottom + 15, v * 1e6);
    }
    fprintf(out,
            "<text x=\"%d\" y=\"%.0f\" text-anchor=\"middle\" fill=\"#5b6673\">microseconds a "
            "token</text>\n",
            LEFT + (WIDTH - LEFT - RIGHT) / 2, bottom + 31);
}

static void draw_bar(const struct compare_table *t, const struct compare_row *r, bool best,
                     double scale, double y, FILE *out)
{
    double value[TERMS], x = LEFT, base = compare_score(t, &t->base)->j;

    fprintf(out, "<text x=\"%d\" y=\"%.0f\" text-anchor=\"end\"%s>", LEFT - 8, y + BAR - 3,
            best ? " font-weight=\"bold\"" : "");
    put_text(out, r->method);
    fputs("</text>\n", out);
    if (!r->good) {
        fprintf(out, "<text x=\"%d\" y=\"%.0f\" fill=\"#8a8f98\">not defined here</text>\n",
                LEFT + 6, y + BAR - 3);
        return;
    }
    term_values(compare_score(t, r), value);
    for (int i = 0; i < TERMS; i++) {
        if (value[i] > 0)
            fprintf(out, "<rect x=\"%.2f\" y=\"%.0f\" width=\"%.2f\" height=\"%d\" fill=\"%s\"/>\n",
                    x, y, value[i] * scale, BAR, TERM[i].colour);
        x += value[i] * scale;
    }
    fprintf(out, "<text x=\"%.1f\" y=\"%.0f\"%s>%.3f</text>\n", x + 6, y + BAR - 3,
            best ? " font-weight=\"bold\"" : "", base > 0 ? compare_score(t, r)->j / base : 1);
}

static double draw_panel(const struct compare_table *t, double scale, double y, FILE *out)
{
    fprintf(out,
            "<text x=\"%d\" y=\"%.0f\" font-weight=\"bold\">%u spare slot%s a rank and layer"
            "</text>\n",
            LEFT, y + 17, t->spare, t->spare == 1 ? "" : "s");
    y += HEAD;
    for (uint32_t i = 0; i < t->rows; i++) {
        draw_bar(t, &t->row[i], compare_leads(t, i), scale, y, out);
        y += ROW;
    }
    return y;
}

void compare_chart(const struct compare_table *table, uint32_t tables, const char *title, FILE *out)
{
    double most = longest(table, tables), y = TOP, height = TOP + FOOT, scale;

    for (uint32_t i = 0; i < tables; i++)
        height += HEAD + (double)ROW * table[i].rows;
    most = most > 0 ? most : 1e-6;
    scale = (WIDTH - LEFT - RIGHT) / most;
    fprintf(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%.0f\" viewBox=\"0 0 %d "
        "%.0f\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#1d2530\">\n"
        "<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>\n"
        "<text x=\"%d\" y=\"26\" font-size=\"15\" font-weight=\"bold\">",
        WIDTH, height, WIDTH, height, LEFT);
    put_text(out, title);
    fprintf(out, "</text>\n");
    draw_legend(out);
    fprintf(out,
            "<text x=\"%d\" y=\"52\" text-anchor=\"end\" fill=\"#5b6673\">figures: of contiguous"
            "</text>\n",
            WIDTH - 10);
    draw_axis(out, most, scale, TOP, height - FOOT);
    for (uint32_t i = 0; i < tables; i++)
        y = draw_panel(&table[i], scale, y, out);
    fputs("</svg>\n", out);
}
