#!/bin/sh
# Collect in kit/ what a machine with torch, numpy, scipy and psutil, but no package registry, needs
# to measure: this commit, and the packages of kit.txt, all pure Python. See docs/gpu.md.
set -e
cd "$(dirname "$0")/.."
if [ -n "$(git status --porcelain)" ]; then
    echo "kit: commit your changes first: results are stored under a commit" >&2
    exit 2
fi
rm -rf kit
"${PYTHON:-.venv/bin/python}" -m pip install -q --disable-pip-version-check --no-deps --no-compile \
    --target kit/site-packages -r tools/kit.txt .
cat > kit/metagrad <<END
#!/bin/sh
# metagrad as of this commit, with the packages of this folder
PYTHONPATH=\$(cd "\$(dirname "\$0")" && pwd)/site-packages ASV_COMMIT=$(git rev-parse HEAD) \\
    exec "\${PYTHON:-python3}" -m harness "\$@"
END
chmod +x kit/metagrad
