/* Start-up of the emulated Cortex-M boards: memory as C expects it, the FPU on, main, and
 * its status as qemu's by semihosting. Faults end with status 99. */
#include <stdint.h>
#include <stdio.h>

extern char board_stack[], board_data[], board_data_end[], board_data_from[], board_bss[],
    board_bss_end[];
int main(int argc, char **argv);
void board_reset(void);
#ifndef BOARD_NO_LIBC
void initialise_monitor_handles(void);
#endif

static void leave(int status) { /* SYS_EXIT_EXTENDED, ADP_Stopped_ApplicationExit */
    uint32_t block[2];
    register uint32_t op __asm__("r0") = 0x20;
    register uint32_t *arg __asm__("r1") = block;
    block[0] = 0x20026;
    block[1] = (uint32_t)status;
    __asm__ volatile("bkpt 0xAB" : "+r"(op) : "r"(arg) : "memory");
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
#ifdef BOARD_NO_LIBC
    leave(main(0, NULL));
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
