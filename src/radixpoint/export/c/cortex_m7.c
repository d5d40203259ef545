/* The first words of memory: the top of the stack, and where to begin. For QEMU's machine mps2-an500. */
extern void _start(void);
__attribute__((section(".vectors"), used)) static void (*const vectors[2])(void) = {
    (void (*)(void))0x61000000,
    _start,
};
