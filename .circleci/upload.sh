#!/usr/bin/env bash
# Uploads a release to GitHub, and fetches it again as the orb and the action will:
#
#   upload.sh DIRECTORY TAG
#
# The directory is that of release.sh, with the programs for both processors. The release is a draft
# until it is whole. The tag of the major version, which the action is used by, is moved to it.
#
# Environment:
#   GITHUB_TOKEN    may write the repository's contents
#   CIRCLE_SHA1     the commit that the tag is of
#   GITHUB_API, GITHUB_DOWNLOAD   other servers, for tests
set -euo pipefail
shopt -s inherit_errexit

dist=$1 tag=$2
repository=dockercache/dockercache
api=${GITHUB_API:-https://api.github.com}/repos/$repository
download=${GITHUB_DOWNLOAD:-https://github.com}/$repository/releases/download/$tag
files=(dockercache-linux-amd64 dockercache-linux-arm64 dockercache.cdx.json SHA256SUMS orb.yml)
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")

die() {
  echo "upload.sh: $*" >&2
  exit 1
}

# The token is no argument, which others on the machine could see.
call() {
  curl -fsS --retry 3 -K <(printf 'header = "Authorization: Bearer %s"\n' "$GITHUB_TOKEN") \
    -H "Accept: application/vnd.github+json" "$@"
}

TAG=$tag "$here/../release.sh" --check
for file in "${files[@]}"; do
  [ -s "$dist/$file" ] || die "\`$dist/$file\` is missing: run release.sh for both processors"
done
(cd "$dist" && sha256sum --check --quiet SHA256SUMS)
while read -r sum file; do
  case $file in
    dockercache-linux-*) grep -q "$sum  $file" "$dist/orb.yml" || die "the orb has another sum of \`$file\`" ;;
  esac
done <"$dist/SHA256SUMS"

release=$(jq -n --arg tag "$tag" '{tag_name: $tag, name: $tag, draft: true}' | call -d @- "$api/releases")
upload=$(jq -r .upload_url <<<"$release")
for file in "${files[@]}"; do
  call -H "Content-Type: application/octet-stream" --data-binary "@$dist/$file" \
    "${upload%%\{*}?name=$file" >/dev/null
done
call -X PATCH -d '{"draft": false}' "$(jq -r .url <<<"$release")" >/dev/null

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for file in "${files[@]}"; do
  curl -fsSL --retry 5 --retry-all-errors -o "$work/$file" "$download/$file"
  cmp "$dist/$file" "$work/$file"
done

major=${tag%%.*}
if ! jq -n --arg sha "$CIRCLE_SHA1" '{sha: $sha, force: true}' |
  call -X PATCH -d @- "$api/git/refs/tags/$major" >/dev/null; then
  jq -n --arg sha "$CIRCLE_SHA1" --arg ref "refs/tags/$major" '{sha: $sha, ref: $ref}' |
    call -d @- "$api/git/refs" >/dev/null
fi
echo "uploaded $tag"
