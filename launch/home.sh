# One function that all scripts here share; they source this file.

# A path with its ~ expanded. A shell does so itself in PYTHON=~/a, but neither in PYTHON="~/a" nor after
# a comma, as in AUDIO=~/a,~/b.
home() { # path
  local own=~
  case $1 in
    "~" | "~/"*) printf '%s' "$own${1#"~"}" ;;
    *) printf '%s' "$1" ;;
  esac
}
