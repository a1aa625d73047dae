"""From a package to an immutable deployment: manifest, sources, build, artefacts, versions."""
