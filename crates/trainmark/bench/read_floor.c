// What reading a folder of result files costs at the least: its names, and for each file one openat, one
// read and one close, in the order of the inodes. docs/reports.md holds the reports' time against it.
//
//   cc -O2 -o floor crates/trainmark/bench/read_floor.c && ./floor FOLDER
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

struct entry {
    ino_t inode;
    char *name;
};

static int by_inode(const void *a, const void *b) {
    ino_t one = ((const struct entry *)a)->inode, other = ((const struct entry *)b)->inode;
    return (one > other) - (one < other);
}

static double system_s(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_stime.tv_sec + 1e-6 * usage.ru_stime.tv_usec;
}

int main(int count, char **words) {
    DIR *folder = count == 2 ? opendir(words[1]) : NULL;
    if (!folder) {
        fprintf(stderr, "usage: floor FOLDER\n");
        return 2;
    }
    struct entry *entries = NULL;
    size_t files = 0, room = 0;
    for (struct dirent *it; (it = readdir(folder));) {
        if (it->d_type != DT_REG) continue;
        if (files == room) entries = realloc(entries, (room = 2 * room + 1024) * sizeof *entries);
        entries[files++] = (struct entry){it->d_ino, strdup(it->d_name)};
    }
    double listed_s = system_s();
    qsort(entries, files, sizeof *entries, by_inode);
    static char buffer[1 << 16];
    long bytes = 0;
    for (size_t i = 0; i < files; i++) {
        int file = openat(dirfd(folder), entries[i].name, O_RDONLY | O_CLOEXEC);
        ssize_t got = read(file, buffer, sizeof buffer);
        if (got > 0) bytes += got;
        close(file);
    }
    printf("%zu files, %ld bytes; system time: %.3f s listing, %.3f s opening, reading, closing\n", files,
           bytes, listed_s, system_s() - listed_s);
    return 0;
}
