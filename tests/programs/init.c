/* A PID 1 of the tests' own that keeps to the contract of AWS's init (aws-nitro-enclaves-sdk-bootstrap:init/init.c, described in constructs/nitrokit/image/aws_init.py):
   mount, load nsm.ko where it is there, heartbeat, read /cmd and /env, make /rootfs the root, run the command in /, and end the machine with it. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ITEMS = 64, HEARTBEAT = 0xB7 };

static void say(const char *what) {
    fprintf(stderr, "test init: %s\n", what);
}

static void heartbeat(void) {
    struct sockaddr_vm parent = {.svm_family = AF_VSOCK, .svm_cid = 3, .svm_port = 9000};
    unsigned char byte = HEARTBEAT;
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&parent, sizeof parent) || write(fd, &byte, 1) != 1 || read(fd, &byte, 1) != 1 || byte != HEARTBEAT)
        say("no heartbeat");
    close(fd);
}

static void load_nsm(void) {
    int fd = open("/nsm.ko", O_RDONLY);
    if (fd >= 0 && syscall(SYS_finit_module, fd, "", 0))
        say("nsm.ko is not a module of this kernel");
}

static char **lines(const char *path) {
    static char *items[2][ITEMS];
    static int used;
    char **into = items[used++], *line = NULL;
    size_t room = 0;
    ssize_t size;
    int count = 0;
    FILE *file = fopen(path, "r");
    while (file && count < ITEMS - 1 && (size = getline(&line, &room, file)) > 0) {
        line[strcspn(line, "\n")] = 0;
        into[count++] = strdup(line);
    }
    into[count] = NULL;
    return into;
}

int main(void) {
    mount("dev", "/dev", "devtmpfs", 0, "");
    int console = open("/dev/console", O_RDWR);
    for (int fd = 0; fd < 3; fd++)
        dup2(console, fd);
    load_nsm();
    heartbeat();
    char **command = lines("/cmd"), **environment = lines("/env");
    if (mount("/rootfs", "/rootfs", NULL, MS_BIND, NULL) || chdir("/rootfs") || mount("/dev", "dev", NULL, MS_MOVE, NULL) || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/"))
        say("no root");
    mount("proc", "/proc", "proc", 0, "");
    mount("sys", "/sys", "sysfs", 0, "");
    mount("tmp", "/tmp", "tmpfs", 0, "");
    pid_t child = fork();
    if (!child) {
        execvpe(command[0], command, environment);
        say("cannot run the command");
        _exit(1);
    }
    waitpid(child, NULL, 0);
    reboot(RB_AUTOBOOT);
}
