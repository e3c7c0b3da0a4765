#!/bin/sh
# Screenshots of a report in headless Chromium, wide and narrow, light and dark.
#   tools/screenshots/shoot.sh REPORT.html OUTDIR
# Writes wide-light.png, wide-dark.png, narrow-light.png, narrow-dark.png. Fails on any console
# error, page error, request to anywhere, or sideways scrolling of the whole page.
set -eu
[ $# -eq 2 ] || { echo "usage: $0 REPORT.html OUTDIR" >&2; exit 2; }
[ -f "$1" ] || { echo "$1: no such file" >&2; exit 2; }
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
report=$(CDPATH= cd -- "$(dirname -- "$1")" && pwd)/$(basename -- "$1")
mkdir -p "$2"
out=$(CDPATH= cd -- "$2" && pwd)

command -v node >/dev/null || { echo "node is needed (20 or later)" >&2; exit 3; }
if ! command -v chromium >/dev/null; then
  echo "installing chromium (Debian)" >&2
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core
fi
if [ ! -d "$here/node_modules/playwright-core" ]; then
  (cd "$here" && npm ci --no-audit --no-fund --ignore-scripts)
fi
exec node "$here/shoot.mjs" "$report" "$out" "$(command -v chromium)"
