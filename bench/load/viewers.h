/* Viewers: many connections to one server, each of which checks every event that it gets. */
#ifndef VIEWERS_H
#define VIEWERS_H

#include "parse.h"

enum { SAMPLES_MAX = 4 * 1000 * 1000 };

typedef enum { CLOSED, CONNECTING, HEAD, OPEN, FINISHED, FAILED } State;

typedef struct {
    Parser parser;
    State state;
    int fd;
    int stream;
    uint64_t started, opened, first, last; /* µs of the monotonic clock: first dial, first headers, events */
    uint64_t retry_at;
    uint64_t repeated, misordered;
    uint32_t distinct, highest;
    uint32_t cut_in; /* events until this viewer is due to be cut off */
    uint8_t *seen;   /* a bit for each event */
} Viewer;

typedef struct {
    int port, viewers, streams;
    uint32_t events;     /* that each viewer is to get, numbered from 1 */
    int cuts, cut_every; /* how many times a viewer is cut off in all; about how many events apart */
    double timeout;      /* seconds */
    unsigned seed;
    Resume resume;
    const char *path, *resume_path, *resume_header; /* {n}: the stream's number, {p}: the position */
} Options;

typedef struct {
    int opened, over;
    uint64_t reads, refused, cut_short, reconnects;
    uint64_t begun, ended; /* µs: the first event, the last */
    uint32_t *samples;     /* latencies in µs */
    size_t sample_count;
} Totals;

extern Options options;
extern Totals totals;
extern Viewer *viewers;

uint64_t clock_micros(void);

/* Say what failed, and end. */
void fail(const char *what);

/* Allocate the viewers; nobody is connected yet. */
void viewers_prepare(void);

/* Dial, read, cut and retry whatever is due, waiting for at most 20 ms. Returns the time, µs. */
uint64_t viewers_turn(void);

#endif
