#!/bin/sh
# What firmware users pay: budgets of code, and the example on an emulated Cortex-M4F.
# The boards (make boards) and the README's table (size.sh check) take a minute: CI runs
# them on their own.
cd "$(dirname "$0")/../.." || exit 1
sh tests/embedded/size.sh budgets
sh tests/embedded/firmware.sh
