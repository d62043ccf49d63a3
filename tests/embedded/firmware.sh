#!/bin/sh
# make firmware: examples/16_firmware on an emulated Cortex-M4F. Its output must be that
# of this machine; then once more without printf, for the sizes.
cd "$(dirname "$0")/../.." || exit 1
here=tests/embedded
work=build/firmware
mkdir -p $work
for program in arm-none-eabi-gcc qemu-system-arm; do
    command -v $program >/dev/null 2>&1 && continue
    echo "skip firmware: no $program"
    exit 0
done

compile() { # image, flags
    image=$1
    shift
    arm-none-eabi-gcc -Os -mthumb -mcpu=cortex-m4 -mfloat-abi=hard -mfpu=fpv4-sp-d16 \
        -ffunction-sections -fdata-sections -Wl,--gc-sections -nostartfiles \
        -specs=nano.specs -T $here/board.ld \
        -Wl,--defsym=FLASH_AT=0,--defsym=FLASH_BYTES=4M \
        -Wl,--defsym=RAM_AT=0x20000000,--defsym=RAM_BYTES=4M "$@" \
        $here/start.c examples/16_firmware/main.c -o "$work/$image"
}

run() { # image
    timeout 60 qemu-system-arm -M mps2-an386 -nographic -monitor none -serial none \
        -semihosting-config enable=on,target=native -kernel "$work/$1" \
        >"$work/$1.txt" 2>&1
}

check() { # name, status
    if [ "$2" = 0 ]; then echo "ok $1"; else echo "FAIL $1"; exit 1; fi
}

compile printing -specs=rdimon.specs && run printing &&
    cmp -s "$work/printing.txt" examples/16_firmware/expected.txt
check "firmware: the output on M4F" $?
compile quiet -DQUIET -DBOARD_QUIET && run quiet
check "firmware: without printf" $?
# no heap, no libm, no printf: of libc only what moves memory
arm-none-eabi-nm "$work/quiet" | awk '{ print $NF }' |
    grep -x 'malloc\|_malloc_r\|free\|_sbrk\|printf\|vfprintf\|sqrtf\|expf\|fmaf' \
        >"$work/bad"
[ ! -s "$work/bad" ]
check "firmware: neither heap nor libm nor printf is linked" $?
arm-none-eabi-size "$work/quiet" | awk -v stack="$(cat "$work/quiet.txt")" 'NR == 2 {
    printf "flash %d bytes, RAM %d bytes of data and %d bytes of stack\n",
        $1 + $2, $2 + $3, stack }'
