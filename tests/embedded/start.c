/* Start-up of the emulated Cortex-M boards: memory as C expects it, the FPU on, main, and
 * its status as qemu's by semihosting. Faults end with status 99. With BOARD_QUIET there
 * is no libc to set up, and the bytes of stack that main used are printed. */
#include <stdint.h>
#include <stdio.h>

extern char board_stack[], board_data[], board_data_end[], board_data_from[], board_bss[],
    board_bss_end[];
int main(int argc, char **argv);
void board_reset(void);
#ifndef BOARD_QUIET
void initialise_monitor_handles(void);
#endif

static void host(uint32_t op, const void *what) { /* semihosting */
    register uint32_t r0 __asm__("r0") = op;
    register const void *r1 __asm__("r1") = what;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
}

static void leave(int status) { /* SYS_EXIT_EXTENDED, ADP_Stopped_ApplicationExit */
    uint32_t block[2];
    block[0] = 0x20026;
    block[1] = (uint32_t)status;
    host(0x20, block);
    for (;;) {}
}

static void board_fault(void) {
    leave(99);
}

__attribute__((used, section(".vectors"))) static void *const vectors[16] = {
    board_stack,
    (void *)board_reset,
    (void *)board_fault,
    (void *)board_fault,
    (void *)board_fault,
    (void *)board_fault,
    (void *)board_fault,
    NULL,
    NULL,
    NULL,
    NULL,
    (void *)board_fault,
    (void *)board_fault,
    NULL,
    (void *)board_fault,
    (void *)board_fault};

#ifdef BOARD_QUIET
enum { PAINTED = 8192 };

/* Runs main on painted memory and prints how much of it was used. */
static int measured_main(void) {
    volatile char *low = board_stack - PAINTED, *p;
    const char *const here = (const char *)__builtin_frame_address(0) - 64;
    char text[16], *digit = text + sizeof text;
    uint32_t used;
    int status;
    for (p = low; p < here; p++) *p = 0x5A;
    status = main(0, NULL);
    for (p = low; *p == 0x5A;) p++;
    used = (uint32_t)(board_stack - p);
    *--digit = 0;
    *--digit = '\n';
    do *--digit = (char)('0' + used % 10);
    while (used /= 10);
    host(4, digit); /* SYS_WRITE0 */
    return status;
}
#endif

/* Volatile, so that no loop becomes a call of something that needs what is not there. */
void board_reset(void) {
    volatile char *to = board_data;
    const char *from = board_data_from;
    while (to != board_data_end) *to++ = *from++;
    for (to = board_bss; to != board_bss_end;) *to++ = 0;
#if defined(__ARM_FP) && __ARM_FP
    *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20; /* CPACR: the FPU, or Helium */
    __asm__ volatile("dsb\nisb");
#endif
#ifdef BOARD_QUIET
    leave(measured_main());
#else
    initialise_monitor_handles();
    to = NULL;
    {
        const int status = main(0, NULL);
        fflush(NULL);
        leave(status);
    }
#endif
}
