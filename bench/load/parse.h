/* What a viewer reads: an HTTP response, chunked or not, with server-sent events in which stamps are found.
 *
 * A stamp is `@`, 16 digits (microseconds of the monotonic clock), `#`, 7 digits (the event's number, from 1). The bytes
 * may be cut anywhere. An event counts once it can no longer be taken back, which depends on how a client resumes.
 */
#ifndef PARSE_H
#define PARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { HEAD_MAX = 4096, LINE_MAX_KEPT = 512, POSITION_MAX = 128, STAMP_LENGTH = 25 };

/* How a client says where to go on. */
typedef enum {
    RESUME_NONE,   /* it never reconnects: every stamp counts at once */
    RESUME_ID,     /* by the last `id:`; an event counts with the blank line that ends its frame */
    RESUME_CHARS,  /* by the number of characters received; every stamp counts at once */
    RESUME_OFFSET, /* by `streamNextOffset` of the last control event, which also makes the events before it count */
} Resume;

typedef enum { AT_HEAD, AT_BODY, AT_SIZE, AT_CHUNK, AT_CHUNK_END, AT_END, AT_FAULT } Place;

typedef struct {
    uint32_t number;
    uint64_t micros;
} Stamp;

/* Called for each event that counts. */
typedef void (*Seen)(void *owner, Stamp stamp);

typedef struct {
    Resume resume;
    Seen seen;
    void *owner;
    Place place;
    int status;
    bool chunked;
    uint64_t left;      /* bytes to come: of the chunk, or of a body with a length */
    bool bounded;       /* the body has a length */
    uint64_t body;      /* bytes of the body so far, over all connections */
    char *head;         /* only while the headers are read */
    size_t head_length;
    int stamp_at;       /* how much of a stamp has been read */
    Stamp partial;
    Stamp *pending;     /* stamps of a frame that is not complete */
    size_t pending_length, pending_room;
    char line[LINE_MAX_KEPT];
    size_t line_length; /* of the whole line, of which only the beginning is kept */
    char next[POSITION_MAX];     /* the position that this frame announces */
    char position[POSITION_MAX]; /* where a reconnect would go on; empty at the beginning */
} Parser;

void parser_init(Parser *parser, Resume resume, Seen seen, void *owner);
void parser_free(Parser *parser);

/* A new connection of the same viewer: what was not complete is forgotten, the position stays. */
void parser_reconnect(Parser *parser);

/* Take in bytes of the response. */
void parser_feed(Parser *parser, const char *data, size_t length);

#endif
