/* The load client: opens viewers of event streams, checks every event that they get, and says so as JSON.
 *
 *   load --port 8000 --path '/v1/streams/s-{n}/events' --viewers 1000 --streams 10 --events 200
 *   load --parse id --split 3 < response      what the parser makes of a response, fed in pieces
 *
 * One line when all viewers are connected, one when all have their events; then it waits for the end of its standard
 * input, so that connections are not torn down while somebody reads the server's figures.
 */
#define _GNU_SOURCE
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "viewers.h"

static int by_value(const void *left, const void *right) {
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

/* `"name": {"p50": …, "p99": …, "max": …}` in milliseconds, of microseconds. */
static void print_spread(const char *name, uint32_t *values, size_t count) {
    if (!count)
        return;
    qsort(values, count, sizeof *values, by_value);
    printf(", \"%s\": {\"p50\": %.3f, \"p99\": %.3f, \"max\": %.3f}", name, values[count / 2] / 1e3,
           values[count * 99 / 100] / 1e3, values[count - 1] / 1e3);
}

static void print_times(const char *name, size_t field, size_t since) {
    uint32_t *values = calloc((size_t)options.viewers, sizeof *values);
    size_t count = 0;
    for (int i = 0; i < options.viewers; i++) {
        uint64_t at = *(uint64_t *)((char *)&viewers[i] + field), from = *(uint64_t *)((char *)&viewers[i] + since);
        if (at && from)
            values[count++] = (uint32_t)(at - from);
    }
    print_spread(name, values, count);
    free(values);
}

static double own_cpu(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)usage.ru_utime.tv_sec + (double)usage.ru_utime.tv_usec / 1e6 + (double)usage.ru_stime.tv_sec +
           (double)usage.ru_stime.tv_usec / 1e6;
}

static void report(double cpu, double seconds, bool timed_out) {
    uint64_t distinct = 0, lost = 0, repeated = 0, misordered = 0, bytes = 0;
    int complete = 0;
    for (int i = 0; i < options.viewers; i++) {
        Viewer *viewer = &viewers[i];
        distinct += viewer->distinct;
        lost += viewer->highest - viewer->distinct;
        repeated += viewer->repeated;
        misordered += viewer->misordered;
        bytes += viewer->parser.body;
        complete += viewer->distinct == options.events;
    }
    printf("{\"viewers\": %d, \"complete\": %d, \"events\": %llu, \"missing\": %llu, \"lost\": %llu, \"repeated\": %llu"
           ", \"misordered\": %llu, \"refused\": %llu, \"cut_short\": %llu, \"reconnects\": %llu, \"reads\": %llu"
           ", \"bytes\": %llu, \"begun\": %.6f, \"ended\": %.6f, \"cpu\": %.4f, \"seconds\": %.4f, \"timed_out\": %s",
           options.viewers, complete, (unsigned long long)distinct,
           (unsigned long long)options.viewers * options.events - (unsigned long long)distinct,
           (unsigned long long)lost, (unsigned long long)repeated, (unsigned long long)misordered,
           (unsigned long long)totals.refused, (unsigned long long)totals.cut_short, (unsigned long long)totals.reconnects,
           (unsigned long long)totals.reads, (unsigned long long)bytes, (double)totals.begun / 1e6, (double)totals.ended / 1e6, cpu, seconds,
           timed_out ? "true" : "false");
    print_times("open_ms", offsetof(Viewer, opened), offsetof(Viewer, started));
    print_times("first_ms", offsetof(Viewer, first), offsetof(Viewer, started));
    print_times("last_ms", offsetof(Viewer, last), offsetof(Viewer, started));
    print_spread("latency_ms", totals.samples, totals.sample_count);
    printf("}\n");
    fflush(stdout);
}

static int watch(void) {
    viewers_prepare();
    bool told = false;
    double cpu = own_cpu();
    uint64_t now = clock_micros(), started = now, deadline = now + (uint64_t)(options.timeout * 1e6);
    while (totals.over < options.viewers && now < deadline) {
        now = viewers_turn();
        if (!told && (totals.opened == options.viewers || totals.over == options.viewers || now >= deadline)) {
            printf("{\"ready\": %d, \"seconds\": %.4f}\n", totals.opened, (double)(now - started) / 1e6);
            fflush(stdout);
            told = true;
            cpu = own_cpu();
            started = now;
        }
    }
    report(own_cpu() - cpu, (double)(now - started) / 1e6, totals.over < options.viewers);
    char byte;
    while (read(STDIN_FILENO, &byte, 1) > 0)
        ;
    return 0;
}

static void print_event(void *owner, Stamp stamp) {
    (void)owner;
    printf("%u %llu\n", stamp.number, (unsigned long long)stamp.micros);
}

/* What the parser makes of standard input, fed `split` bytes at a time. */
static int parse(size_t split) {
    Parser parser;
    parser_init(&parser, options.resume, print_event, NULL);
    char *piece = malloc(split);
    for (size_t length; (length = fread(piece, 1, split, stdin)) > 0;)
        parser_feed(&parser, piece, length);
    printf("status=%d body=%llu position=%s place=%d\n", parser.status, (unsigned long long)parser.body,
           parser.position, parser.place);
    parser_free(&parser);
    free(piece);
    return 0;
}

static Resume resume_named(const char *name) {
    static const char *names[] = {"none", "id", "chars", "offset"};
    for (int i = 0; i < 4; i++)
        if (strcmp(name, names[i]) == 0)
            return (Resume)i;
    fprintf(stderr, "resume must be none, id, chars or offset, not %s\n", name);
    exit(2);
}

int main(int count, char **arguments) {
    static const struct option known[] = {
        {"port", required_argument, NULL, 'p'},        {"viewers", required_argument, NULL, 'v'},
        {"streams", required_argument, NULL, 's'},     {"events", required_argument, NULL, 'e'},
        {"path", required_argument, NULL, 'u'},        {"resume", required_argument, NULL, 'r'},
        {"resume-path", required_argument, NULL, 'U'}, {"resume-header", required_argument, NULL, 'H'},
        {"cuts", required_argument, NULL, 'c'},        {"cut-every", required_argument, NULL, 'C'},
        {"seed", required_argument, NULL, 'S'},        {"timeout", required_argument, NULL, 't'},
        {"parse", required_argument, NULL, 'P'},       {"split", required_argument, NULL, 'x'},
        {NULL, 0, NULL, 0},
    };
    bool parse_only = false;
    size_t split = 65536;
    for (int option; (option = getopt_long(count, arguments, "", known, NULL)) != -1;) {
        switch (option) {
        case 'p': options.port = atoi(optarg); break;
        case 'v': options.viewers = atoi(optarg); break;
        case 's': options.streams = atoi(optarg); break;
        case 'e': options.events = (uint32_t)atoi(optarg); break;
        case 'u': options.path = optarg; break;
        case 'U': options.resume_path = optarg; break;
        case 'H': options.resume_header = optarg; break;
        case 'r': options.resume = resume_named(optarg); break;
        case 'P': options.resume = resume_named(optarg); parse_only = true; break;
        case 'x': split = (size_t)atoi(optarg); break;
        case 'c': options.cuts = atoi(optarg); break;
        case 'C': options.cut_every = atoi(optarg); break;
        case 'S': options.seed = (unsigned)atoi(optarg); break;
        case 't': options.timeout = atof(optarg); break;
        default: return 2;
        }
    }
    if (parse_only)
        return parse(split ? split : 1);
    if (!options.port || !options.path || options.viewers < 1 || options.streams < 1 || options.events < 1) {
        fprintf(stderr, "load needs --port and --path, and at least one viewer, stream and event\n");
        return 2;
    }
    return watch();
}
