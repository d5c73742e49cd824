# 4.1.2.1
rule combine_bias:
    input:
        stage="stage/combine_bias.json",
        registry=registry_of("bias"),
    output:
        manifest=template("bias_manifest"),
    log:
        "logs/combine_bias/{calibration}.log",
    threads: threads_per_job
    params:
        execution=execution,
    script:
        "../scripts/combine_bias.py"


# 4.1.2.3
rule measure_crosstalk:
    input:
        stage="stage/measure_crosstalk.json",
        registry=registry_of("crosstalk"),
        calibrations=used_by("crosstalk"),
    output:
        manifest=template("crosstalk_manifest"),
    log:
        "logs/measure_crosstalk/{calibration}.log",
    threads: threads_per_job
    params:
        execution=execution,
    script:
        "../scripts/measure_crosstalk.py"


# 4.1.2.3
rule measure_linearity:
    input:
        stage="stage/measure_linearity.json",
        registry=registry_of("linearizer"),
        calibrations=used_by("linearizer"),
    output:
        manifest=template("linearizer_manifest"),
    log:
        "logs/measure_linearity/{calibration}.log",
    threads: threads_per_job
    params:
        execution=execution,
    script:
        "../scripts/measure_linearity.py"


# 4.1.2.3
rule measure_photon_transfer:
    input:
        stage="stage/measure_photon_transfer.json",
        registry=registry_of("ptc"),
        calibrations=used_by("ptc"),
    output:
        manifest=template("ptc_manifest"),
    log:
        "logs/measure_photon_transfer/{calibration}.log",
    threads: threads_per_job
    params:
        execution=execution,
    script:
        "../scripts/measure_photon_transfer.py"


# 4.1.2.1
rule combine_dark:
    input:
        stage="stage/combine_dark.json",
        registry=registry_of("dark"),
        calibrations=used_by("dark"),
    output:
        manifest=template("dark_manifest"),
    log:
        "logs/combine_dark/{calibration}.log",
    threads: threads_per_job
    params:
        execution=execution,
    script:
        "../scripts/combine_dark.py"


# 4.1.2.1
rule combine_flat:
    input:
        stage="stage/combine_flat.json",
        registry=registry_of("flat"),
        calibrations=used_by("flat"),
    output:
        manifest=template("flat_manifest"),
    log:
        "logs/combine_flat/{calibration}.log",
    threads: threads_per_job
    params:
        execution=execution,
    script:
        "../scripts/combine_flat.py"


# 4.1.2.3
rule find_defects:
    input:
        stage="stage/find_defects.json",
        registry=registry_of("defects"),
        calibrations=used_by("defects"),
    output:
        manifest=template("defects_manifest"),
    log:
        "logs/find_defects/{calibration}.log",
    threads: threads_per_job
    params:
        execution=execution,
    script:
        "../scripts/find_defects.py"


# 4.1.2.3
rule combine_fringe:
    input:
        stage="stage/combine_fringe.json",
        registry=registry_of("fringe"),
        calibrations=used_by("fringe"),
    output:
        manifest=template("fringe_manifest"),
    log:
        "logs/combine_fringe/{calibration}.log",
    threads: threads_per_job
    params:
        execution=execution,
    script:
        "../scripts/combine_fringe.py"
