print("average")
