"""Delay statistics per carrier and route: spark-submit jobs/delays.py INPUT_CSV OUTPUT_FOLDER.

Reads flights with a header line (carrier, origin, dest, arr_delay in minutes, NA where a flight
was cancelled) and writes Parquet to OUTPUT_FOLDER/routes and the ten worst as JSON to OUTPUT_FOLDER/worst.
"""

from __future__ import annotations

import sys

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

MIN_FLIGHTS = 100


def delays(flights: DataFrame) -> DataFrame:
    """One row for each carrier and route: flights that arrived, and mean, median and p90 of their delay."""
    arrived = flights.where(f.col("arr_delay").isNotNull())
    return arrived.groupBy("carrier", "origin", "dest").agg(
        f.count("*").alias("flights"),
        f.round(f.mean("arr_delay"), 1).alias("mean_min"),
        f.round(f.percentile("arr_delay", f.lit(0.5)), 1).alias("median_min"),
        f.round(f.percentile("arr_delay", f.lit(0.9)), 1).alias("p90_min"),
    )


def main(source: str, target: str) -> None:
    """Run the job."""
    with SparkSession.builder.appName("delays").getOrCreate() as spark:
        spark.sparkContext.setLogLevel("WARN")
        flights = spark.read.csv(source, header=True, inferSchema=True, nullValue="NA")
        routes = delays(flights).cache()
        routes.coalesce(1).write.mode("overwrite").parquet(f"{target}/routes")
        worst = (
            routes.where(f.col("flights") >= MIN_FLIGHTS)
            .orderBy(f.desc("p90_min"), "carrier", "dest")
            .limit(10)
        )
        worst.coalesce(1).write.mode("overwrite").json(f"{target}/worst")
        print(f"{flights.count()} flights, {routes.count()} carriers and routes")
        worst.show()


if __name__ == "__main__":
    main(*sys.argv[1:])
