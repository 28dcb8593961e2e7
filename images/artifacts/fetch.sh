#!/bin/bash
# Fetches what Cassandra and ZooKeeper are made of (jars, from Maven) into the cache:
#   $REPLICATEDDB_CACHE/artifacts/{cassandra-5.0.9,zookeeper-3.9.5}/lib/*.jar
# Exactly the jars that the .sha256 lists beside this script name are kept, so a changed or missing jar is an error.
#   fetch.sh [cassandra|zookeeper ...]    default: both. Does nothing when they're there.
#   fetch.sh --pin                        writes the lists anew from what Maven gives (after changing a pom.xml; review the diff)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/../../cluster/lib/common.sh"

readonly MAVEN_COPY=org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies
# Native libraries for systems that these images don't run on.
readonly UNUSED_JARS='-(osx|windows)-|-riscv64|-macos|kqueue'

version_of() { # cassandra -> 5.0.9: the name of its folder here
  local folder; folder=$(cd "$here" && echo "$1"-*/pom.xml)
  folder=${folder%/pom.xml}; echo "${folder#"$1"-}"
}

complete() { # NAME-VERSION: all jars there with the right content
  (cd "$CACHE_ROOT/artifacts/$1/lib" 2> /dev/null && sha256sum --quiet --check "$here/$1.sha256" > /dev/null 2>&1)
}

download() { # NAME-VERSION FOLDER
  apt_install mvn=maven
  # Maven itself runs on any Java; the fetched programs need 17
  JAVA_HOME=$(dirname "$(dirname "$(java17)")") with_log "$CACHE_ROOT/logs/maven-$1.log" \
    mvn -q -B -ntp -f "$here/$1/pom.xml" "$MAVEN_COPY" -DincludeScope=runtime -DoutputDirectory="$2"
  find "$2" -regextype posix-extended -regex ".*($UNUSED_JARS).*" -delete
}

fetch() { # NAME-VERSION
  if complete "$1"; then log "$1: in the cache"; return 0; fi
  log "$1: fetching jars from Maven"
  local lib=$CACHE_ROOT/artifacts/$1/lib new; new=$CACHE_ROOT/artifacts/$1/lib.new
  rm -rf "$new"; mkdir -p "$new" "$lib"
  download "$1" "$new"
  (cd "$new" && sha256sum --quiet --check "$here/$1.sha256") || die "$1: jars differ from the pinned list $here/$1.sha256"
  # file by file, so that a program running from this folder never misses a jar
  (cd "$new" && cut -c67- "$here/$1.sha256" | xargs -I{} mv -f {} "$lib/{}")
  local jar
  for jar in "$lib"/*.jar; do
    grep -q -F -e "  $(basename "$jar")" "$here/$1.sha256" || rm -f "$jar"
  done
  rm -rf "$new"
  log "$1: $(find "$lib" -name '*.jar' | wc -l) jars, $(du -sm "$lib" | cut -f1) MB"
}

pin() { # NAME-VERSION
  local new; new=$(mktemp -d)
  download "$1" "$new"
  (cd "$new" && sha256sum ./*.jar | sed 's|\./||') > "$here/$1.sha256"
  rm -rf "$new"
  log "$1: pinned $(wc -l < "$here/$1.sha256") jars"
}

action=fetch
if [ "${1:-}" = --pin ]; then action=pin; shift; fi
for name in "${@:-cassandra zookeeper}"; do
  for one in $name; do
    [ -d "$here/$one-$(version_of "$one")" ] || die "unknown artifact: $one"
    locked "artifacts-$one" "$action" "$one-$(version_of "$one")"
  done
done
java17 > /dev/null
