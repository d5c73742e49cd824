# 4.1.2.1
rule combine_bias:
    input:
        stage="stage/combine_bias.json",
        registry=registry_of_bias,
    output:
        manifest=template("bias_manifest"),
    log:
        "logs/combine_bias/{calibration}.log",
    threads: threads_per_job
    params:
        execution=execution,
    script:
        "../scripts/combine_bias.py"


# 4.1.2.1
rule combine_flat:
    input:
        stage="stage/combine_flat.json",
        registry=registry_of_flat,
        bias=bias_of_flat,
    output:
        manifest=template("flat_manifest"),
    log:
        "logs/combine_flat/{calibration}.log",
    threads: threads_per_job
    params:
        execution=execution,
    script:
        "../scripts/combine_flat.py"
