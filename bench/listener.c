/* SPDX-License-Identifier: Apache-2.0
 *
 * Runs a program and answers the calls that umwelt answers with 0, at once and without a look at
 * them: what the kernel itself takes for an answer from user space (seccomp_unotify(2)).
 *
 *   listener PROGRAM [ARGUMENT...]      x86-64, and programs of 64 bits
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64) /* Linux 6.6 */
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (1UL << 0)
#endif

static int install_filter(void) {
  struct sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_sysinfo, 4, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_sched_getaffinity, 3, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_sched_setaffinity, 2, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getcpu, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
  };
  struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return -1;
  return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER,
                      &program);
}

/* Before Linux 6.11 who waits for a call does not notice that nobody is left who could make one. */
static void end_with_child(int number) {
  int status = 0;
  (void)number;
  if (waitpid(-1, &status, WNOHANG) > 0) _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

static void answer_all(int listener) {
  struct seccomp_notif call;
  struct seccomp_notif_resp answer;
  ioctl(listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP);
  for (;;) {
    memset(&call, 0, sizeof call);
    if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call) != 0) {
      if (errno != EINTR) pause();
      continue;
    }
    memset(&answer, 0, sizeof answer);
    answer.id = call.id;
    ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
  }
}

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  const pid_t child = fork();
  if (child == 0) {
    /* Its parent takes the listener when it stops, by the number that all of these have. */
    const int listener = install_filter();
    if (listener < 0 || dup2(listener, 100) < 0) _exit(126);
    close(listener);
    kill(getpid(), SIGSTOP);
    close(100);
    execv(argv[1], argv + 1);
    _exit(127);
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, WUNTRACED) < 0) return 1;
  if (!WIFSTOPPED(status)) return WEXITSTATUS(status);
  const int pidfd = (int)syscall(SYS_pidfd_open, child, 0);
  const int listener = (int)syscall(SYS_pidfd_getfd, pidfd, 100, 0);
  if (listener < 0) return 1;
  signal(SIGCHLD, end_with_child);
  kill(child, SIGCONT);
  answer_all(listener);
}
