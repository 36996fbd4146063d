package manual

import "strings"

// FilesMark is the line that has a shell complete files as well.
const FilesMark = ":files"

// Shells are those that there is a script for.
var Shells = []string{"bash", "zsh", "fish"}

// Script returns the script that has a shell ask the program, as "PROGRAM COMMAND WORDS…", what may come next: it answers
// with a candidate a line, a tab and what it is behind it, or FilesMark. The empty script is that of an unknown shell.
func (p *Program) Script(shell, command string) string {
	return strings.NewReplacer("PROGRAM", p.Name, "COMMAND", command, "MARK", FilesMark).Replace(scripts[shell])
}

// The shells cut words in ways of their own: bash at "=" and ":", so that it reads the line itself, and has what stands
// in front of the last such character taken off each candidate.
var scripts = map[string]string{
	"bash": `# completion for PROGRAM: source <(PROGRAM completion bash)
_PROGRAM() {
	local line=${COMP_LINE:0:COMP_POINT} words=() word candidate
	read -ra words <<<"$line"
	case $line in *[[:space:]]) words+=("") ;; esac
	word=${words[${#words[@]}-1]}
	COMPREPLY=()
	while IFS=$'\t' read -r candidate _; do
		case $candidate in
		MARK)
			compopt -o filenames 2>/dev/null
			while IFS= read -r candidate; do COMPREPLY+=("$candidate"); done < <(compgen -f -- "${word#*=}")
			;;
		?*=|*:|*://) compopt -o nospace 2>/dev/null; COMPREPLY+=("$candidate") ;;
		?*) COMPREPLY+=("$candidate") ;;
		esac
	done < <(PROGRAM COMMAND "${words[@]:1}" 2>/dev/null)
	local cut=${word%"${word##*[=:]}"}
	COMPREPLY=("${COMPREPLY[@]#"$cut"}")
}
complete -F _PROGRAM PROGRAM
`,
	"zsh": `#compdef PROGRAM
# completion for PROGRAM: source <(PROGRAM completion zsh), or save it as _PROGRAM in a directory of $fpath
_PROGRAM() {
	local line word about
	local -a list
	for line in "${(@f)$(PROGRAM COMMAND "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
		if [[ $line == MARK ]]; then
			_files
			continue
		fi
		[[ -n $line ]] || continue
		word=${line%%$'\t'*}
		about=
		[[ $line == *$'\t'* ]] && about=${line#*$'\t'}
		list+=("${word//:/\\:}${about:+:$about}")
	done
	(( $#list )) && _describe -V PROGRAM list
}
if (( ! $+functions[compdef] )); then
	autoload -Uz compinit && compinit
fi
if [[ $funcstack[1] == _PROGRAM ]]; then
	_PROGRAM "$@"
else
	compdef _PROGRAM PROGRAM
fi
`,
	"fish": `# completion for PROGRAM: PROGRAM completion fish | source
function __PROGRAM_complete
	set -l words (commandline -opc) (commandline -ct)
	for line in (PROGRAM COMMAND $words[2..-1] 2>/dev/null)
		if test "$line" = MARK
			__fish_complete_path (string replace -r '^--[^=]*=' '' -- (commandline -ct))
		else
			echo $line
		end
	end
end
complete -c PROGRAM -f -a '(__PROGRAM_complete)'
`,
}
