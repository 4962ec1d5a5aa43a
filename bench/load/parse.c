#define _GNU_SOURCE
#include "parse.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

void parser_init(Parser *parser, Resume resume, Seen seen, void *owner) {
    memset(parser, 0, sizeof *parser);
    parser->resume = resume;
    parser->seen = seen;
    parser->owner = owner;
}

void parser_free(Parser *parser) {
    free(parser->head);
    free(parser->pending);
    parser->head = NULL;
    parser->pending = NULL;
}

void parser_reconnect(Parser *parser) {
    free(parser->head);
    parser->head = NULL;
    parser->head_length = 0;
    parser->place = AT_HEAD;
    parser->status = 0;
    parser->chunked = parser->bounded = false;
    parser->left = 0;
    parser->line_length = 0;
    parser->pending_length = 0;
    parser->next[0] = '\0';
    if (parser->resume != RESUME_CHARS)
        parser->stamp_at = 0; /* a client that counts characters goes on in the middle of whatever was cut */
}

static void found(Parser *parser, Stamp stamp) {
    if (parser->resume == RESUME_NONE || parser->resume == RESUME_CHARS) {
        parser->seen(parser->owner, stamp);
        return;
    }
    if (parser->pending_length == parser->pending_room) {
        parser->pending_room = parser->pending_room ? parser->pending_room * 2 : 16;
        parser->pending = realloc(parser->pending, parser->pending_room * sizeof(Stamp));
        if (!parser->pending)
            abort();
    }
    parser->pending[parser->pending_length++] = stamp;
}

static void stamp_byte(Parser *parser, char byte) {
    int at = parser->stamp_at;
    if (byte == '@') {
        parser->stamp_at = 1;
        parser->partial = (Stamp){0, 0};
        return;
    }
    if (at == 0)
        return;
    if (at == 17) {
        parser->stamp_at = byte == '#' ? 18 : 0;
        return;
    }
    if (byte < '0' || byte > '9') {
        parser->stamp_at = 0;
        return;
    }
    if (at < 17)
        parser->partial.micros = parser->partial.micros * 10 + (uint64_t)(byte - '0');
    else
        parser->partial.number = parser->partial.number * 10 + (uint32_t)(byte - '0');
    parser->stamp_at = at + 1;
    if (parser->stamp_at == STAMP_LENGTH) {
        parser->stamp_at = 0;
        found(parser, parser->partial);
    }
}

/* `count` digits as a number; false where there are others. */
static bool digits(const char *data, int count, uint64_t *number) {
    uint64_t value = 0;
    for (int i = 0; i < count; i++) {
        unsigned digit = (unsigned)(data[i] - '0');
        if (digit > 9)
            return false;
        value = value * 10 + digit;
    }
    *number = value;
    return true;
}

static void stamps(Parser *parser, const char *data, size_t length) {
    const char *end = data + length;
    while (data < end) {
        if (parser->stamp_at == 0) {
            data = memchr(data, '@', (size_t)(end - data));
            if (!data)
                return;
            uint64_t micros, number;
            if (end - data >= STAMP_LENGTH && data[17] == '#' && digits(data + 1, 16, &micros) &&
                digits(data + 18, STAMP_LENGTH - 18, &number)) { /* all of it is here, as nearly always */
                found(parser, (Stamp){.number = (uint32_t)number, .micros = micros});
                data += STAMP_LENGTH;
                continue;
            }
        }
        stamp_byte(parser, *data++);
    }
}

static void keep(char *position, const char *from, size_t length) {
    if (length >= POSITION_MAX)
        return;
    memcpy(position, from, length);
    position[length] = '\0';
}

/* A line is over: it may carry a position, and an empty one ends the frame. */
static void line_end(Parser *parser) {
    static const char key[] = "\"streamNextOffset\":";
    size_t length = parser->line_length < LINE_MAX_KEPT ? parser->line_length : LINE_MAX_KEPT - 1;
    char *line = parser->line;
    line[length] = '\0';
    if (length && line[length - 1] == '\r')
        line[--length] = '\0';
    if (length == 0) {
        if (parser->resume == RESUME_OFFSET && !parser->next[0])
            return; /* data without its control event: a reconnect would ask for it again */
        for (size_t i = 0; i < parser->pending_length; i++)
            parser->seen(parser->owner, parser->pending[i]);
        parser->pending_length = 0;
        if (parser->next[0])
            memcpy(parser->position, parser->next, POSITION_MAX);
        parser->next[0] = '\0';
    } else if (parser->resume == RESUME_ID && strncmp(line, "id:", 3) == 0) {
        const char *value = line + 3 + (line[3] == ' ');
        keep(parser->next, value, strlen(value));
    } else if (parser->resume == RESUME_OFFSET && strncmp(line, "data:", 5) == 0) {
        const char *value = strstr(line, key);
        value = value ? strchr(value + sizeof key - 1, '"') : NULL;
        const char *end = value ? strchr(value + 1, '"') : NULL;
        if (end)
            keep(parser->next, value + 1, (size_t)(end - value - 1));
    }
}

static void body(Parser *parser, const char *data, size_t length) {
    if (parser->status != 200)
        return; /* an error's own words are no part of the stream */
    parser->body += length;
    if (parser->resume == RESUME_NONE || parser->resume == RESUME_CHARS) {
        stamps(parser, data, length);
        if (parser->resume == RESUME_CHARS)
            snprintf(parser->position, POSITION_MAX, "%llu", (unsigned long long)parser->body);
        return;
    }
    const char *end = data + length;
    while (data < end) {
        const char *newline = memchr(data, '\n', (size_t)(end - data));
        size_t span = (size_t)((newline ? newline : end) - data);
        stamps(parser, data, span);
        if (parser->line_length < LINE_MAX_KEPT - 1) {
            size_t room = LINE_MAX_KEPT - 1 - parser->line_length;
            memcpy(parser->line + parser->line_length, data, span < room ? span : room);
        }
        parser->line_length += span;
        data += span;
        if (newline) {
            parser->stamp_at = 0;
            line_end(parser);
            parser->line_length = 0;
            data++;
        }
    }
}

static void head_end(Parser *parser) {
    char *head = parser->head;
    head[parser->head_length] = '\0';
    parser->status = atoi(strchr(head, ' ') ? strchr(head, ' ') : "0");
    parser->chunked = strcasestr(head, "\r\ntransfer-encoding: chunked") != NULL;
    const char *bound = strcasestr(head, "\r\ncontent-length:");
    parser->bounded = bound != NULL;
    parser->left = bound ? strtoull(bound + 17, NULL, 10) : 0;
    parser->place = parser->chunked ? AT_SIZE : AT_BODY;
    if (parser->bounded && !parser->chunked && parser->left == 0)
        parser->place = AT_END;
    parser->line_length = 0;
    free(head);
    parser->head = NULL;
}

static void head_byte(Parser *parser, char byte) {
    if (!parser->head && !(parser->head = malloc(HEAD_MAX)))
        abort();
    if (parser->head_length >= HEAD_MAX - 1) {
        parser->place = AT_FAULT;
        return;
    }
    parser->head[parser->head_length++] = byte;
    if (byte == '\n' && parser->head_length >= 4 && memcmp(parser->head + parser->head_length - 4, "\r\n\r\n", 4) == 0)
        head_end(parser);
}

static int hexadecimal(char byte) {
    if (byte >= '0' && byte <= '9')
        return byte - '0';
    byte |= 0x20;
    return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : -1;
}

void parser_feed(Parser *parser, const char *data, size_t length) {
    const char *end = data + length;
    while (data < end) {
        size_t rest = (size_t)(end - data);
        size_t part;
        switch (parser->place) {
        case AT_HEAD:
            head_byte(parser, *data++);
            break;
        case AT_BODY:
            part = parser->bounded && parser->left < rest ? parser->left : rest;
            body(parser, data, part);
            data += part;
            if (parser->bounded && (parser->left -= part) == 0)
                parser->place = AT_END;
            break;
        case AT_SIZE:
            if (*data == '\n')
                parser->place = parser->left ? AT_CHUNK : AT_END;
            else if (hexadecimal(*data) >= 0)
                parser->left = parser->left * 16 + (uint64_t)hexadecimal(*data);
            else if (*data != '\r')
                parser->place = AT_FAULT;
            data++;
            break;
        case AT_CHUNK:
            part = parser->left < rest ? parser->left : rest;
            body(parser, data, part);
            data += part;
            if ((parser->left -= part) == 0)
                parser->place = AT_CHUNK_END;
            break;
        case AT_CHUNK_END:
            if (*data == '\n')
                parser->place = AT_SIZE;
            data++;
            break;
        case AT_END:
        case AT_FAULT:
            return;
        }
    }
}
