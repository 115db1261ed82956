# Prints each line with its variables replaced ($NAME, ${NAME}; $$ is a dollar) and evaluates
# nothing. `option` comes before each; `tags`, with commas between them, are added to each.
NF {
  line = $0; value = ""
  while (match(line, /[$]([$]|[A-Za-z_][A-Za-z0-9_]*|[{][A-Za-z_][A-Za-z0-9_]*[}])/)) {
    name = substr(line, RSTART + 1, RLENGTH - 1); gsub(/[{}]/, "", name)
    if (name != "$" && !(name in ENVIRON)) { print "dockercache: error: `" name "` is not defined" >"/dev/stderr"; exit 2 }
    value = value substr(line, 1, RSTART - 1) (name == "$" ? "$" : ENVIRON[name])
    line = substr(line, RSTART + RLENGTH)
  }
  count = split(tags, tag, /[, ]+/)
  if (count == 0) { if (option != "") print option; print value line }
  for (i = 1; i <= count; i++) if (tag[i] != "") { if (option != "") print option; print value line ":" tag[i] }
}
