FROM alpine
ADD --checksum=sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 https://example.com/empty /empty
ADD --keep-git-dir=true https://github.com/example/repo.git#v1 /repo
ADD --unpack=false --chmod=0644 archive.tar.gz docs/*.md /dest/
ADD ["with space.txt", "other", "/dest/"]
COPY --parents --exclude=*.tmp --exclude=**/x src/./lib/*.c /parents/
WORKDIR relative
WORKDIR ../other
COPY . .
