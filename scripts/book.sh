#!/usr/bin/env bash
# The documents as a book, target/book/html/index.html, with every link of every page checked:
#
#   scripts/book.sh           builds it; installs mdBook (cargo install) where it isn't there
#   scripts/book.sh --serve   the same, and serves it on http://127.0.0.1:3001/ until Ctrl-C
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib/common.sh

serve=false
case ${1:-} in
  --serve) serve=true ;;
  '') ;;
  *) die "unknown argument $1: only --serve" ;;
esac

if ! command -v mdbook >/dev/null; then
  say "installing mdBook"
  # Its debug build takes a quarter of the release build's time.
  cargo install mdbook --locked --debug --quiet || die "mdBook can't be installed here"
fi

# A copy in which the whole repository's documents have their places, since pages refer to what is outside of docs/. What the
# pages link to goes with them.
book=${CARGO_TARGET_DIR:-target}/book
rm -rf "$book"
mkdir -p "$book/src"
cp docs/book.toml "$book/"
{
  find . -maxdepth 1 -type f \( -name '*.md' -o -name 'LICENSE*' -o -name docker-compose.yml \)
  find docs examples schemas deploy -type f -not -path '*/node_modules/*' -not -path '*/vendor/*'
  printf '%s\n' src/config/im-dispatcher.toml
} | sed 's|^\./||' | tar -cf - -T - | tar -xf - -C "$book/src"
rm "$book/src/docs/book.toml" "$book/src/docs/SUMMARY.md"
# The table of contents stands in docs/, where its links are right; in the copy it stands above.
sed -E 's#\]\(([^):]+)\)#](docs/\1)#; s#\]\(docs/\.\./#](#' docs/SUMMARY.md >"$book/src/SUMMARY.md"
mdbook build "$book"

# Every link of the built pages, but those to elsewhere: mdBook itself checks none.
broken=0 count=0
while IFS=: read -r page link; do
  link=${link#*\"}
  link=${link%\"}
  file=${link%%\#*}
  file=${file%%\?*}
  anchor=
  case $link in *\#*) anchor=${link#*\#} ;; esac
  target=$page
  [ -z "$file" ] || target=$(dirname "$page")/$file
  count=$((count + 1))
  if [ ! -e "$target" ] || { [ -n "$anchor" ] && ! grep -q "id=\"$anchor\"" "$target"; }; then
    say "$page: $link leads nowhere"
    broken=$((broken + 1))
  fi
done < <(grep -roE --include='*.html' '(href|src)="[^":]+"' "$book/html" | grep -v -e '/print.html:' -e '/404.html:' | sort -u)
[ "$broken" = 0 ] || die "$broken links lead nowhere"
[ "$count" -gt 300 ] || die "only $count links were found: has the search broken?"
say "$book/html/index.html ($count links are right)"

if $serve; then
  exec mdbook serve "$book" --hostname 127.0.0.1 --port 3001
fi
