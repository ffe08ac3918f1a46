#!/usr/bin/env bash
# Make sure that the browser tests have a Chromium: install Debian's where that is possible.
# Without one: fail when CI=true, otherwise say so and let the other tests run.
set -uo pipefail
for candidate in "${UNIFORGET_CHROMIUM:-}" chromium chromium-browser google-chrome; do
    if [ -n "$candidate" ] && command -v "$candidate" >/dev/null; then
        echo "== browser: $(command -v "$candidate")"
        exit 0
    fi
done
as_root=""
if [ "$(id -u)" != 0 ]; then
    if sudo -n true 2>/dev/null; then as_root="sudo -n"; else as_root="no"; fi
fi
if [ "$as_root" != no ] && command -v apt-get >/dev/null; then
    echo "== browser: none found, installing Debian's chromium"
    export DEBIAN_FRONTEND=noninteractive
    if { $as_root apt-get update -qq && $as_root apt-get install -y -qq --no-install-recommends chromium; } >/dev/null 2>&1 \
        && command -v chromium >/dev/null; then
        echo "== browser: $(command -v chromium)"
        exit 0
    fi
    echo "   installation failed (apt-get install chromium)"
fi
if [ "${CI:-}" = true ]; then
    echo "== browser: no Chromium and CI=true: the browser tests must run, stopping" >&2
    exit 1
fi
echo "== browser: no Chromium here and none could be installed: going on WITHOUT the browser tests"
