#!/usr/bin/env bash
# The browser that the report's tests drive: the distribution's Chromium. Does nothing when it is there.
set -euo pipefail
if [[ -x /usr/bin/chromium ]]; then exit 0; fi
apt=(apt-get)
((EUID == 0)) || apt=(sudo -n apt-get)
exec 9> "${TMPDIR:-/tmp}/edgevit-chromium.lock" # test workers may come here at the same time
flock 9
if [[ -x /usr/bin/chromium ]]; then exit 0; fi
if ! { "${apt[@]}" update -qq && "${apt[@]}" install -y -qq --no-install-recommends chromium; } > /dev/null 2>&1; then
    echo "not installed: chromium; run: sudo apt-get install chromium" >&2
    exit 1
fi
