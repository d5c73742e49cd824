# 5.1.1
rule bootstrap_im_char:
    input:
        stage="stage/bootstrap_im_char.json",
        registry=registry_of_chunk,
        calibrations=calibrations_of_chunk,
    output:
        manifest=template("bootstrap_chunk_manifest"),
    log:
        "logs/bootstrap_im_char/{chunk}.log",
    threads: threads_per_job
    params:
        execution=execution,
    script:
        "../scripts/bootstrap_im_char.py"
