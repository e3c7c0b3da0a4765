#!/bin/sh
# Fetch the sources of the facts with the registries' ordinary clients: fetch.sh WORK/src
set -eu
mkdir -p "$1" && cd "$1"
npm pack --silent countries-list@3.4.1 cldr-core@48.2.0 cldr-localenames-full@48.2.0
apt-get download wordnet-base=1:3.0-37
sha256sum -c <<'SUMS'
572934a82137ec58a84a3e32635ec589cb9788e8df408f15677c71009d2adff2  countries-list-3.4.1.tgz
5310e0c7a06c1feb83dc8e54c8584bbe0b9c2ea8320172a18d541986b124585d  cldr-core-48.2.0.tgz
7f2ac7fd3b5d90f56ad127f9ed5ae67b58b3e556818f55530b9f47bb81bcde57  cldr-localenames-full-48.2.0.tgz
61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752  wordnet-base_1%3a3.0-37_all.deb
SUMS
for f in *.tgz; do mkdir -p "${f%.tgz}" && tar xzf "$f" -C "${f%.tgz}"; done
dpkg-deb -x wordnet-base_*.deb wn
