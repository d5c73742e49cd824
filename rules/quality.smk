# 6.2.1
rule visit_quality:
    input:
        stage="stage/visit_quality.json",
        registry=registry_of_chunk,
        chunk=template("bootstrap_chunk_manifest"),
    output:
        manifest=template("visit_quality_chunk_manifest"),
    log:
        "logs/visit_quality/{chunk}.log",
    threads: threads_per_job
    params:
        execution=execution,
    script:
        "../scripts/visit_quality.py"


# 6.1
rule scorecard:
    input:
        stage="stage/scorecard.json",
        characterization="stage/bootstrap_im_char.json",
        registry=planned_slices,
        calibrations=planned_calibrations,
        chunks=characterized_chunks,
    output:
        manifest=template("scorecard_manifest"),
    log:
        "logs/scorecard/release.log",
    threads: threads_per_job
    params:
        execution=execution,
    script:
        "../scripts/scorecard.py"


# 6.2.1
rule quality_site:
    input:
        stage="stage/quality_site.json",
        unusable=UNUSABLE,
        calibration_slices=planned_calibration_slices,
        calibrations=planned_calibrations,
        chunks=characterized_chunks,
        pictures=pictured_chunks,
        tables=template("visit_tables_manifest"),
        scorecard=template("scorecard_manifest"),
    output:
        manifest=template("quality_site_manifest"),
    log:
        "logs/quality_site/release.log",
    threads: threads_per_job
    params:
        execution=execution,
    script:
        "../scripts/quality_site.py"
