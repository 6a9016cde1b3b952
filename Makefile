# `make install` needs git, make and Python 3.11 to 3.13; everything else it fetches itself.

supported = import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,\
            $(shell $(p) -c '$(supported)' >/dev/null 2>&1 && echo $(p))))
BIN := .venv/bin
SOURCES := shared/src packages/*/src apps/*/src tools
# Each test worker imports torch: as many as there are cores, but at most 8. A file stays with one
# worker, so that what its tests share is made once.
WORKERS ?= auto
PYTEST := $(BIN)/pytest -n $(WORKERS) --maxprocesses 8 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help install demo test check lint types arrows docs format bench clean small-protein small-audio small-shape small-pde

help:  ## Show this list.
	@sed -n 's/^\([a-z-]*\):.*##/\1\t/p' Makefile | expand -t 15

# The stamp makes repeated calls instant; a changed lock or project file runs it again.
.venv/.installed: uv.lock pyproject.toml tools/install.py $(wildcard shared/pyproject.toml packages/*/pyproject.toml apps/*/pyproject.toml)
	@test -n "$(PYTHON)" || { echo "make install: no Python 3.11, 3.12 or 3.13 found; name one with PYTHON=..." >&2; exit 2; }
	$(PYTHON) tools/install.py
	@touch $@

install: .venv/.installed  ## Create .venv with the locked packages, hashes checked.

demo: install  ## Run every domain on its small checkpoint; writes demo/index.html.
	$(BIN)/rectiflow demo -o demo
	@echo "Open $(CURDIR)/demo/index.html in a browser."

test: install  ## Run the tests (ARGS="--slow" adds the slow ones).
	$(PYTEST) $(ARGS)

# In this order so that the tests' closing line comes last.
check: lint types arrows docs  ## Everything that must pass before a change lands.
	$(MAKE) --no-print-directory test

lint: install  ## Formatting and lint rules, without changing anything.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/ruff check --isolated --select F821 benchmarks tools  # names: these have no shape strings
	$(BIN)/python tools/check_files.py

types: install  ## Static types.
	$(BIN)/mypy $(SOURCES)

arrows: install  ## core <- packages <- apps.
	$(BIN)/lint-imports

docs: install  ## Build the pages into site/.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: install  ## Rewrite the code in the project's style.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install  ## Measure speed and memory; writes JSON under benchmarks/results.
	@for script in $$(grep -l __main__ benchmarks/*.py); do \
	  $(BIN)/python $$script --out benchmarks/results/$$(basename $$script .py).json || exit 1; \
	done

clean:  ## Remove what make and the tools made, except .venv and .toolchain.
	rm -rf site dist build demo .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache

# Every stage goes on where it was stopped, and is left out once it is done.
STAGE = @test -d $(RUNS)/$(1)/export || $(BIN)/rectiflow $(2) \
  $$(test -f $(RUNS)/$(1)/checkpoints/last.ckpt && echo resume=$(RUNS)/$(1) || echo hydra.run.dir=$(RUNS)/$(1))

CHAINS ?= $(error name structure files or an archive of chains: make small-protein CHAINS=FOLDER)
small-protein: RUNS ?= runs/small-protein
small-protein: install  ## Train the small protein checkpoints: make small-protein CHAINS=FOLDER.
	$(BIN)/rectiflow protein prepare $(CHAINS) -o $(RUNS)/shards --min-length 40
	$(call STAGE,base,protein train) data.dir=$(RUNS)/shards experiment=small_crops network=small \
	  trainer.max_steps=6000 'training.scheduler.points=[[0,0.01],[100,1.0],[4500,1.0],[6000,0.02]]'
	$(BIN)/rectiflow protein pairs --weights $(RUNS)/base/export --lengths 60:100:2 --num 210 --batch 15 \
	  --steps 50 --min-valid 0.75 --max-coil 0.85 --max-contacts 8 --seed 1 -o $(RUNS)/pairs
	$(call STAGE,rectified,protein reflow) data.dir=$(RUNS)/pairs experiment=small_rectify weights=$(RUNS)/base/export
	$(call STAGE,sheets,protein train) data.dir=$(RUNS)/shards experiment=small_sheets network=small_wide
	$(call STAGE,whole,protein train) data.dir=$(RUNS)/shards experiment=small_whole weights=$(RUNS)/sheets/export
	$(BIN)/python benchmarks/protein_quality.py --weights $(RUNS)/base/export $(RUNS)/rectified/export \
	  --data $(RUNS)/shards --out $(RUNS)/quality.json
	$(BIN)/python benchmarks/protein_quality.py --weights $(RUNS)/whole/export --steps 50 --rate 4 \
	  --temperature 1 --repulsion on --pairing on --data $(RUNS)/shards --out $(RUNS)/quality_sheets.json

SOUNDS ?= $(error name the folder of sounds and a list of captions: make small-audio SOUNDS=FOLDER)
small-audio: RUNS ?= runs/small-audio
small-audio: install  ## Train the small sound checkpoints: make small-audio SOUNDS=FOLDER.
	$(BIN)/rectiflow audio prepare $(SOUNDS) -o $(RUNS)/shards --wordings paraphrases
	$(call STAGE,vae,audio train) data.dir=$(RUNS)/shards experiment=small_vae
	$(call STAGE,flow,audio train) data.dir=$(RUNS)/shards experiment=small vae.weights=$(RUNS)/vae/export \
	  data.wordings=paraphrases
	$(call STAGE,patches,audio train) data.dir=$(RUNS)/shards experiment=small_patches \
	  network=patches_after weights=$(RUNS)/flow/export data.wordings=paraphrases
	$(call STAGE,mask,audio train) data.dir=$(RUNS)/shards experiment=small_mask \
	  weights=$(RUNS)/patches/export data.wordings=paraphrases
	$(call STAGE,mean,audio train) data.dir=$(RUNS)/shards experiment=small_mean \
	  weights=$(RUNS)/mask/export data.wordings=paraphrases
	$(BIN)/rectiflow audio pairs $(RUNS)/shards -o $(RUNS)/pairs --num 640 --wordings paraphrases \
	  --weights $(RUNS)/flow/export
	$(call STAGE,rectified,audio reflow) data.dir=$(RUNS)/pairs weights=$(RUNS)/flow/export \
	  experiment=small_rectify
	$(BIN)/python benchmarks/audio_mask_network.py --data $(RUNS)/shards --out $(RUNS)/mask.safetensors
	$(BIN)/python benchmarks/audio_quality.py --data $(RUNS)/shards --mask $(RUNS)/mask.safetensors \
	  --weights $(RUNS)/flow/export $(RUNS)/patches/export $(RUNS)/mean/export $(RUNS)/rectified/export \
	  --out $(RUNS)/quality.json
	$(BIN)/python benchmarks/audio_quality.py --data $(RUNS)/shards --weights $(RUNS)/mask/export --steps 1 \
	  --out $(RUNS)/quality_mask.json

MESHES ?= $(error name the folder of meshes: make small-shape MESHES=FOLDER)
small-shape: RUNS ?= runs/small-shape
small-shape: install  ## Train the small shape checkpoints: make small-shape MESHES=FOLDER.
	$(BIN)/rectiflow shape fit $(MESHES) -o $(RUNS)/mosaics --grids 64 --resolution 7 --fit-steps 20
	$(BIN)/rectiflow shape prepare $(MESHES) -o $(RUNS)/shards --surface 8192 --near 8192 --volume 4096
	$(call STAGE,flow,shape train) data.dir=$(RUNS)/mosaics experiment=small
	$(BIN)/rectiflow shape pairs --weights $(RUNS)/flow/export --num 512 -o $(RUNS)/pairs
	$(call STAGE,rectified,shape reflow) data.dir=$(RUNS)/pairs weights=$(RUNS)/flow/export experiment=small_rectify
	$(call STAGE,vae,shape train) data.dir=$(RUNS)/shards experiment=small_vae
	$(call STAGE,latent,shape train) data.dir=$(RUNS)/shards experiment=small_triposg vae.weights=$(RUNS)/vae/export
	$(BIN)/rectiflow shape pairs --weights $(RUNS)/latent/export --num 320 --steps 25 -o $(RUNS)/latent-pairs
	$(call STAGE,latent-rectified,shape reflow) data.dir=$(RUNS)/latent-pairs weights=$(RUNS)/latent/export \
	  experiment=small_triposg_rectify
	for weights in flow rectified latent latent-rectified; do for steps in 5 10 25 50; do \
	  $(BIN)/rectiflow shape eval $(RUNS)/shards --weights $(RUNS)/$$weights/export --generate 8 --steps $$steps \
	    -o $(RUNS)/measured/$$weights-$$steps || exit; done; done

FLOWS ?= 96
SOLVERS ?= 2
small-pde: RUNS ?= runs/small-pde
small-pde: install  ## Solve flows and train the small physics checkpoints on them (FLOWS=96 SOLVERS=2).
	$(BIN)/rectiflow pde solve cylinder --num $(FLOWS) --workers $(SOLVERS) --splits 0.95,0.05,0 --seed 100000 \
	  --frames 121 --frame-step 0.0125 -o $(RUNS)/flows/train
	$(BIN)/rectiflow pde solve cylinder --reynolds 60,190 --num 16 --workers $(SOLVERS) --splits 0,0,1 \
	  --seed 900000 -o $(RUNS)/flows/test
	$(call STAGE,flow,pde train) data.dir=$(RUNS)/flows experiment=small data.module.step=0.05
	$(call STAGE,march,pde train) data.dir=$(RUNS)/flows experiment=small_march data.module.step=0.05
	$(call STAGE,surrogate,pde train) data.dir=$(RUNS)/flows experiment=small_march_surrogate data.module.step=0.05
	$(BIN)/rectiflow pde pairs $(RUNS)/flows --num 1024 --weights $(RUNS)/march/export -o $(RUNS)/pairs
	$(call STAGE,rectified,pde reflow) data.dir=$(RUNS)/pairs weights=$(RUNS)/march/export experiment=small_rectify
	$(BIN)/rectiflow pde eval $(RUNS)/flows --steps 1 2 5 10 25 --ensemble 8 --weights $(RUNS)/march/export \
	  --beside $(RUNS)/rectified/export $(RUNS)/surrogate/export $(RUNS)/flow/export -o $(RUNS)/measured
	$(BIN)/python benchmarks/pde_guard.py --weights $(RUNS)/march/export --data $(RUNS)/flows/test \
	  --out $(RUNS)/guard.json
	$(BIN)/python benchmarks/pde_simulation.py --weights $(RUNS)/rectified/export --out $(RUNS)/simulation.json
