#define _GNU_SOURCE
#include "viewers.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 256 * 1024, BATCH = 1024, AT_ONCE = 256 };
static const uint64_t RETRY_AFTER = 20 * 1000; /* µs, after a refused reconnect */

Options options = {.viewers = 1, .streams = 1, .events = 1, .cut_every = 50, .timeout = 60, .seed = 1};
Totals totals;
Viewer *viewers;

static int epoll, opening, next_to_open;
static uint64_t now;

uint64_t clock_micros(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (uint64_t)at.tv_sec * 1000000u + (uint64_t)at.tv_nsec / 1000u;
}

void fail(const char *what) {
    perror(what);
    exit(2);
}

/* An event counts: check it, and take its latency. */
static void seen(void *owner, Stamp stamp) {
    Viewer *viewer = owner;
    uint32_t number = stamp.number;
    if (number == 0 || number > options.events) {
        viewer->misordered++; /* nobody has sent such an event */
        return;
    }
    uint8_t bit = (uint8_t)(1u << (number & 7));
    if (viewer->seen[number >> 3] & bit) {
        viewer->repeated++;
        return;
    }
    viewer->seen[number >> 3] |= bit;
    viewer->distinct++;
    if (number < viewer->highest)
        viewer->misordered++;
    else
        viewer->highest = number;
    if (!viewer->first)
        viewer->first = now;
    if (!totals.begun)
        totals.begun = now;
    viewer->last = totals.ended = now;
    if (totals.sample_count < SAMPLES_MAX && now >= stamp.micros && now - stamp.micros < UINT32_MAX)
        totals.samples[totals.sample_count++] = (uint32_t)(now - stamp.micros);
}

/* `template` with {n} and {p} filled in, appended at `to`. */
static size_t fill(char *to, size_t room, const char *template, int number, const char *position) {
    size_t length = 0;
    for (const char *from = template; *from && length + POSITION_MAX < room;) {
        if (strncmp(from, "{n}", 3) == 0) {
            length += (size_t)sprintf(to + length, "%d", number);
            from += 3;
        } else if (strncmp(from, "{p}", 3) == 0) {
            length += (size_t)sprintf(to + length, "%s", position);
            from += 3;
        } else {
            to[length++] = *from++;
        }
    }
    to[length] = '\0';
    return length;
}

static void set_state(Viewer *viewer, State state) {
    bool was_opening = viewer->state == CONNECTING || viewer->state == HEAD;
    bool is_opening = state == CONNECTING || state == HEAD;
    opening += (int)is_opening - (int)was_opening;
    viewer->state = state;
    if (state == FINISHED || state == FAILED)
        totals.over++;
}

static uint32_t cut_after(void) {
    return (uint32_t)(rand_r(&options.seed) % (unsigned)(2 * options.cut_every));
}

static void hang_up(Viewer *viewer) {
    if (viewer->fd >= 0)
        close(viewer->fd);
    viewer->fd = -1;
}

static void dial(Viewer *viewer) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        fail("socket");
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS)
        fail("connect");
    struct epoll_event event = {.events = EPOLLOUT, .data.ptr = viewer};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        fail("epoll_ctl");
    viewer->fd = fd;
    viewer->started = viewer->started ? viewer->started : clock_micros();
    set_state(viewer, CONNECTING);
}

static void dial_again(Viewer *viewer) {
    hang_up(viewer);
    parser_reconnect(&viewer->parser);
    totals.reconnects++;
    dial(viewer);
}

/* The server ended or broke the connection, or refused it. */
static void dropped(Viewer *viewer) {
    hang_up(viewer);
    bool retry = options.resume != RESUME_NONE;
    if (viewer->parser.status != 200)
        totals.refused++;
    else
        totals.cut_short++;
    set_state(viewer, retry ? CLOSED : FAILED);
    viewer->retry_at = now + RETRY_AFTER;
}

static void send_request(Viewer *viewer) {
    char request[2048];
    const char *position = viewer->parser.position;
    const char *path = position[0] && options.resume_path ? options.resume_path : options.path;
    size_t length = (size_t)sprintf(request, "GET ");
    length += fill(request + length, sizeof request - length, path, viewer->stream, position);
    length += (size_t)sprintf(request + length, " HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n");
    if (position[0] && options.resume_header) {
        length += fill(request + length, sizeof request - length, options.resume_header, viewer->stream, position);
        length += (size_t)sprintf(request + length, "\r\n");
    }
    length += (size_t)sprintf(request + length, "\r\n");
    if (send(viewer->fd, request, length, MSG_NOSIGNAL) != (ssize_t)length) {
        dropped(viewer);
        return;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = viewer};
    if (epoll_ctl(epoll, EPOLL_CTL_MOD, viewer->fd, &event) < 0)
        fail("epoll_ctl");
    set_state(viewer, HEAD);
}

static void receive(Viewer *viewer) {
    static char buffer[BUFFER];
    ssize_t length = recv(viewer->fd, buffer, BUFFER, 0);
    if (length < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    now = clock_micros();
    if (length <= 0) {
        dropped(viewer);
        return;
    }
    totals.reads++;
    /* A viewer that is due is cut off after a random piece of what has come: anywhere in a frame. */
    bool cut = options.cuts && viewer->cut_in == 0 && viewer->state == OPEN;
    uint32_t before = viewer->distinct;
    parser_feed(&viewer->parser, buffer, cut ? 1 + (size_t)rand_r(&options.seed) % (size_t)length : (size_t)length);
    uint32_t fresh = viewer->distinct - before;
    viewer->cut_in -= fresh < viewer->cut_in ? fresh : viewer->cut_in;
    if (viewer->state == HEAD && viewer->parser.place != AT_HEAD) {
        if (viewer->parser.status != 200) {
            dropped(viewer);
            return;
        }
        if (!viewer->opened) {
            viewer->opened = now;
            totals.opened++;
        }
        set_state(viewer, OPEN);
    }
    if (viewer->distinct >= options.events) {
        set_state(viewer, FINISHED);
    } else if (viewer->parser.place == AT_FAULT || viewer->parser.place == AT_END) {
        dropped(viewer);
    } else if (cut) {
        options.cuts--;
        viewer->cut_in = cut_after();
        dial_again(viewer);
    }
}

static void retry(void) {
    for (int i = 0; i < options.viewers; i++)
        if (viewers[i].state == CLOSED && viewers[i].retry_at && viewers[i].retry_at <= now)
            dial_again(&viewers[i]);
}

void viewers_prepare(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    viewers = calloc((size_t)options.viewers, sizeof *viewers);
    totals.samples = malloc(SAMPLES_MAX * sizeof *totals.samples);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!viewers || !totals.samples || epoll < 0)
        fail("prepare");
    for (int i = 0; i < options.viewers; i++) {
        parser_init(&viewers[i].parser, options.resume, seen, &viewers[i]);
        viewers[i].fd = -1;
        viewers[i].stream = i % options.streams + 1;
        viewers[i].cut_in = cut_after();
        if (!(viewers[i].seen = calloc(options.events / 8 + 1, 1)))
            fail("prepare");
    }
}

uint64_t viewers_turn(void) {
    static struct epoll_event ready[BATCH];
    while (next_to_open < options.viewers && opening < AT_ONCE)
        dial(&viewers[next_to_open++]);
    int count = epoll_wait(epoll, ready, BATCH, 20);
    for (int i = 0; i < count; i++) {
        Viewer *viewer = ready[i].data.ptr;
        if (viewer->fd < 0)
            continue;
        if (viewer->state == CONNECTING) {
            int error = 0;
            socklen_t size = sizeof error;
            getsockopt(viewer->fd, SOL_SOCKET, SO_ERROR, &error, &size);
            now = clock_micros();
            if (error)
                dropped(viewer);
            else
                send_request(viewer);
        } else if (viewer->state == FINISHED) {
            epoll_ctl(epoll, EPOLL_CTL_DEL, viewer->fd, NULL); /* the rest is nobody's concern */
        } else {
            receive(viewer);
        }
    }
    now = clock_micros();
    if (options.resume != RESUME_NONE)
        retry();
    return now;
}
