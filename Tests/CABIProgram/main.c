// Calls every function of kvstore.h the way a C program does. Run by KVStoreCTests, and by examples/c/test.sh against
// the installed library. Ends with 0, or with 1 and a line that says what did not hold.
#include "check.h"

int main(int count, char **arguments) {
    const char *command = count > 1 ? arguments[1] : "";
    const char *argument = count > 2 ? arguments[2] : NULL;
    if (strcmp(command, "lifecycle") == 0 && argument) check_lifecycle(argument);
    else if (strcmp(command, "keys") == 0) check_keys();
    else if (strcmp(command, "negative") == 0 && argument) check_negative(argument);
    else if (strcmp(command, "handles") == 0) check_handles();
    else if (strcmp(command, "fork") == 0 && argument) check_fork_with_disk(argument);
    else if (strcmp(command, "fork") == 0) check_fork();
    else if (strcmp(command, "threads") == 0) check_threads();
    else if (strcmp(command, "daemon") == 0 && argument) check_daemon(argument, 1);
    else if (strcmp(command, "no-daemon") == 0 && argument) check_daemon(argument, 0);
    else if (strcmp(command, "fuzz") == 0 && count > 4) {
        fuzz(strtoull(arguments[2], NULL, 10), strtoull(arguments[3], NULL, 10), (unsigned)atoi(arguments[4]),
            count > 5 ? arguments[5] : NULL);
    } else {
        fprintf(stderr, "usage: %s lifecycle DIR | keys | negative DIR | handles | fork [DIR] | threads | daemon SOCKET |"
            " no-daemon SOCKET | fuzz SEED CALLS THREADS [DIR]\n", arguments[0]);
        return 64;
    }
    puts("ok");
    return 0;
}
