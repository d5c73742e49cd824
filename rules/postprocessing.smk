# 5.6
rule visit_tables:
    input:
        stage="stage/visit_tables.json",
        chunks=characterized_chunks,
    output:
        manifest=template("visit_tables_manifest"),
    log:
        "logs/visit_tables/release.log",
    params:
        execution=execution,
    script:
        "../scripts/visit_tables.py"
